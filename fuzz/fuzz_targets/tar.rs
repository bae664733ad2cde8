//! The tar archives inside a `.deb`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::package::tar(data));
