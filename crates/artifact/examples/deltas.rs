//! Makes and uses block files from the command line, each as a process of its own so that its processor time and
//! its memory can be measured. `make bench-image` calls it.
//!
//!     deltas blocks IMAGE OUTPUT LEVEL
//!     deltas assemble OLD BLOCKS OUTPUT
//!     deltas pair OLD NEW OUTPUT LEVEL
//!     deltas apply OLD PAIR OUTPUT

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};

use volary_artifact::blocks::{Ranges, apply_pair, assemble, write_blocks, write_pair};
use volary_model::Digest;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Local(File);

impl Ranges for Local {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.seek(SeekFrom::Start(start))?;
        Ok(Box::new((&self.0).take(length)))
    }
}

fn empty(output: &str, length: u64) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(output)?;
    file.set_len(length)?;
    Ok(file)
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
            let mut target = empty(output, length)?;
            let old = File::open(old)?;
            let told =
                assemble(&mut Local(File::open(blocks)?), &old, &mut target, &expected, &mut |_| Ok(()))?;
            println!(
                "fetched {} bytes in {} requests, {} bytes of the image new, {} written",
                told.fetched, told.requests, told.new, told.written
            );
        }
        ["pair", old, new, output, level] => {
            let (old, new) = (File::open(old)?, File::open(new)?);
            let paired = write_pair(&old, &new, File::create(output)?, level.parse()?)?;
            println!("{} bytes for {} bytes that are new", paired.size, paired.new);
        }
        ["apply", old, pair, output] => {
            let mut head = [0; 104];
            File::open(pair)?.read_exact(&mut head)?;
            let expected = Digest::from_bytes(head[72..].try_into()?);
            let length = u64::from_le_bytes(head[16..24].try_into()?);
            let mut target = empty(output, length)?;
            let old = File::open(old)?;
            let told =
                apply_pair(&mut Local(File::open(pair)?), &old, &mut target, &expected, &mut |_| Ok(()))?;
            println!(
                "fetched {} bytes in {} requests, complete: {}",
                told.fetched, told.requests, told.complete
            );
        }
        _ => return Err("usage: deltas blocks|assemble|pair|apply FILES".into()),
    }
    Ok(())
}
