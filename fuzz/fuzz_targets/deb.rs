//! Whole `.deb` files. Half of the mutations unpack a member first, or nothing behind the
//! compression would ever change.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| volary_fuzz::package::deb(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    volary_fuzz::package::mutate(data, size, max_size, seed)
});
