//! Pairs of images.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::pair(data));
