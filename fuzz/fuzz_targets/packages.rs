//! `Packages` and `Sources` indexes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::text::packages(data));
