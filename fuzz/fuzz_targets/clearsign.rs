//! The frame of clearsigned texts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::text::clearsign(data));
