//! The outer archive of a `.deb`, uncompressed within.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::package::ar(data));
