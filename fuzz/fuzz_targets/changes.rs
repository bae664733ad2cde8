//! Upload descriptions: `.changes` and `.dsc`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::text::changes(data));
