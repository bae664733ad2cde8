//! Opens a disk image, packed or not.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use volary_host::FileError;

/// How much is read from the disk at once.
const BUFFER: usize = 1 << 20;

/// An image that is read from front to end.
pub struct OpenImage {
    /// Its bytes, unpacked.
    pub content: Box<dyn Read + Send>,
    /// Its size in bytes if that is known before the end: not for packed ones.
    pub size: Option<u64>,
}

/// Opens `path`; what it is packed with (gzip, xz, zstd or nothing) is told by its first bytes.
///
/// # Errors
/// [`FileError`] with the path.
pub fn open_image(path: &Path) -> Result<OpenImage, FileError> {
    let failed = || FileError::at("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let size = file.metadata().map_err(failed())?.len();
    let mut magic = [0; 6];
    let count = read_some(&mut file, &mut magic).map_err(failed())?;
    let file = io::Cursor::new(magic[..count].to_vec()).chain(file);
    let input = BufReader::with_capacity(BUFFER, file);
    let content: Box<dyn Read + Send> = match &magic[..count] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(input).map_err(failed())?),
        _ => return Ok(OpenImage { content: Box::new(input), size: Some(size) }),
    };
    Ok(OpenImage { content, size: None })
}

/// The block map that belongs to an image: `disk.img.bmap` or `disk.bmap` beside it.
pub fn bmap_beside(image: &Path) -> Option<PathBuf> {
    let name = image.file_name()?.to_str()?;
    let plain = [".gz", ".xz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let stem = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem);
    let names = [format!("{plain}.bmap"), format!("{stem}.bmap")];
    names.iter().map(|name| image.with_file_name(name)).find(|path| path.is_file())
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}
