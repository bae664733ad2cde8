//! Update artifacts, whole and each of their parts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::artifact(data));
