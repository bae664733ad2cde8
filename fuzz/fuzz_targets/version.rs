//! Version numbers and their order.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::version::all(data));
