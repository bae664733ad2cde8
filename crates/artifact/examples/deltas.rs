//! Makes and uses block files from the command line, each as a process of its own so that its processor time and
//! its memory can be measured. `make bench-image` calls it.
//!
//!     deltas blocks IMAGE OUTPUT LEVEL
//!     deltas assemble OLD BLOCKS OUTPUT

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};

use volary_artifact::blocks::{Ranges, assemble, write_blocks};
use volary_model::Digest;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Local(File);

impl Ranges for Local {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.seek(SeekFrom::Start(start))?;
        Ok(Box::new((&self.0).take(length)))
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["blocks", image, output, level] => {
            let image = File::open(image)?;
            let length = image.metadata()?.len();
            let threads = std::thread::available_parallelism()?.get();
            let packed = write_blocks(image, length, File::create(output)?, level.parse()?, threads)?;
            println!("{} bytes, of which every device fetches {}", packed.size, packed.table);
        }
        ["assemble", old, blocks, output] => {
            let mut head = [0; 64];
            File::open(blocks)?.read_exact(&mut head)?;
            let expected = Digest::from_bytes(head[32..].try_into()?);
            let length = u64::from_le_bytes(head[16..24].try_into()?);
            let mut target =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(output)?;
            target.set_len(length)?;
            let old = File::open(old)?;
            let told =
                assemble(&mut Local(File::open(blocks)?), &old, &mut target, &expected, &mut |_| Ok(()))?;
            println!(
                "fetched {} bytes in {} requests, {} bytes of the image new, {} written",
                told.fetched, told.requests, told.new, told.written
            );
        }
        _ => return Err("usage: deltas blocks IMAGE OUTPUT LEVEL | assemble OLD BLOCKS OUTPUT".into()),
    }
    Ok(())
}
