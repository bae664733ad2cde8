//! Git objects, packs, SSH signatures and the files in a fleet that say whom to trust.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| volary_fuzz::git::all(data));
