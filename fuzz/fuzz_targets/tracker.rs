//! The data of Debian's security tracker.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::text::tracker(data));
