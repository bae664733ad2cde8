//! Making a block file, in one pass over the image.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use ring::digest::{Context, SHA256};
use volary_model::Digest;
use zstd::zstd_safe::{CCtx, CParameter, FrameFormat, get_error_name};

use super::format::{Entry, HEAD, Head, LARGEST, Row, SHORT, list_to_bytes};
use super::{BLOCK, BlocksError, CONTEXT, GROUP_BYTES, group_hash, hash, is_zero};
use crate::header::to_digest;
use crate::pool::{Done, Pool, Work};

/// What a block file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The image's SHA-256.
    pub image: Digest,
    /// The image's length in bytes.
    pub length: u64,
    /// The block file's length in bytes.
    pub size: u64,
    /// Bytes that every device fetches: head and table.
    pub table: u64,
}

/// Writes the block file of an image of `length` bytes. `level` is zstd's, 1 to 19: a byte less for the devices costs
/// time here, and none there. Memory is some MiB for each thread.
///
/// # Errors
/// [`BlocksError::Image`], `Read` and `Write`.
pub fn write_blocks(
    mut image: impl Read,
    length: u64,
    output: impl Write + Seek,
    level: i32,
    threads: usize,
) -> Result<Packed, BlocksError> {
    if length == 0 || !length.is_multiple_of(BLOCK as u64) {
        return Err(BlocksError::Image { length, reason: "it must be made of blocks of 4096 bytes" });
    }
    if length > LARGEST {
        return Err(BlocksError::Image { length, reason: "at most 1 TiB are possible" });
    }
    let failed = |source| BlocksError::Write { what: "the block file", source };
    let mut output = BufWriter::with_capacity(1 << 20, output);
    let empty = Head { length, lists: 0, image: Digest::from_bytes([0; 32]) };
    let front = HEAD + empty.table();
    output.seek(SeekFrom::Start(front as u64)).map_err(failed)?;

    let mut writer = Writer { output, rows: Vec::with_capacity(empty.table()), lists: Vec::new(), data: 0 };
    let mut pool = Pool::new(threads, || Ok(worker(level))).map_err(failed)?;
    let mut whole = Context::new(&SHA256);
    let mut context: Vec<u8> = Vec::new();
    let mut left = length;
    while left > 0 {
        let size = left.min(GROUP_BYTES as u64) as usize;
        // A job is its context and its group, after the length of the context.
        let mut job = Vec::with_capacity(4 + context.len() + size);
        job.extend_from_slice(&(context.len() as u32).to_le_bytes());
        job.extend_from_slice(&context);
        let start = job.len();
        job.resize(start + size, 0);
        image
            .read_exact(&mut job[start..])
            .map_err(|source| BlocksError::Read { what: "the image", source })?;
        whole.update(&job[start..]);
        context.clear();
        context.extend_from_slice(&job[4..][(job.len() - 4).saturating_sub(CONTEXT)..]);
        left -= size as u64;
        if pool.is_full() {
            writer.take(pool.take()).map_err(failed)?;
        }
        pool.submit(job);
    }
    while let Some(done) = pool.take() {
        writer.take(Some(done)).map_err(failed)?;
    }
    let image = to_digest(whole);
    let head = Head { length, lists: front as u64 + writer.data, image };
    let size = writer.finish(&head).map_err(failed)?;
    Ok(Packed { image, length, size, table: front as u64 })
}

struct Writer<W: Write + Seek> {
    output: BufWriter<W>,
    rows: Vec<u8>,
    lists: Vec<u8>,
    data: u64,
}

impl<W: Write + Seek> Writer<W> {
    fn take(&mut self, done: Option<io::Result<Done>>) -> io::Result<()> {
        let Some(done) = done else { return Ok(()) };
        let result = done?.result;
        let (head, data) = result.split_at(ROW_AND_LENGTH);
        let list = u32::from_le_bytes(head[super::format::ROW..].try_into().expect("four bytes")) as usize;
        self.rows.extend_from_slice(&head[..super::format::ROW]);
        self.lists.extend_from_slice(&data[..list]);
        self.output.write_all(&data[list..])?;
        self.data += (data.len() - list) as u64;
        Ok(())
    }

    fn finish(mut self, head: &Head) -> io::Result<u64> {
        self.output.write_all(&self.lists)?;
        let size = head.lists + self.lists.len() as u64;
        self.output.seek(SeekFrom::Start(0))?;
        self.output.write_all(&head.to_bytes())?;
        self.output.write_all(&self.rows)?;
        self.output.flush()?;
        Ok(size)
    }
}

const ROW_AND_LENGTH: usize = super::format::ROW + 4;

/// Makes of a job its row, the length of its list, its list and its data.
fn worker(level: i32) -> Work {
    Box::new(move |job| {
        let (context, rest) = job.split_at(4);
        let context = u32::from_le_bytes(context.try_into().expect("four bytes")) as usize;
        // For the compressor to go on from block to block, all that it was shown must outlive it.
        let mut compressor = CCtx::create();
        let mut setup = |parameter| compressor.set_parameter(parameter).map_err(from_zstd);
        setup(CParameter::CompressionLevel(level))?;
        setup(CParameter::Format(FrameFormat::Magicless))?;
        setup(CParameter::ContentSizeFlag(false))?;
        let mut packed = vec![0; 2 * BLOCK];
        let (mut entries, mut hashes, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for (place, start) in (context..rest.len()).step_by(BLOCK).enumerate() {
            let block = &rest[start..start + BLOCK];
            let full = hash(block);
            hashes.push(full);
            if is_zero(block) {
                continue;
            }
            if start > 0 {
                compressor.ref_prefix(&rest[start.saturating_sub(CONTEXT)..start]).map_err(from_zstd)?;
            }
            let size = compressor.compress2(&mut packed[..], block).map_err(from_zstd)?;
            let (size, bytes) = if size < BLOCK { (size, &packed[..size]) } else { (BLOCK, block) };
            data.extend_from_slice(bytes);
            entries.push(Entry { place: place as u8, packed: size as u16, hash: full & SHORT });
        }
        let row = Row { hash: group_hash(hashes), data: data.len() as u32, blocks: entries.len() as u8 };
        let list = list_to_bytes(&entries);
        let mut result = Vec::with_capacity(ROW_AND_LENGTH + list.len() + data.len());
        result.extend_from_slice(&row.to_bytes());
        result.extend_from_slice(&(list.len() as u32).to_le_bytes());
        result.extend_from_slice(&list);
        result.extend_from_slice(&data);
        Ok(result)
    })
}

fn from_zstd(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}
