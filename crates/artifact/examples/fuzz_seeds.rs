//! Writes the seeds of the fuzzers of block files and pairs below a folder. `fuzz/make-seeds` calls it.
//!
//!     cargo run -p volary-artifact --example fuzz_seeds FOLDER

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: fuzz_seeds FOLDER")?;
    for (name, bytes) in volary_artifact::blocks::fuzz_seeds() {
        let path = Path::new(&folder).join(name);
        volary_host::create_dir(path.parent().ok_or("a seed has a folder")?)?;
        volary_host::write_atomic(&path, &bytes, 0o644)?;
    }
    Ok(())
}
