//! Block files of images, as a device fetches them in parts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::blocks(data));
