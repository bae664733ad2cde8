//! Reading and checking an artifact as it streams by. The header is complete and checked when
//! [`Reader::open`] returns; each payload file is checked by the read that reaches its end.

use std::io::{self, BufReader, Read};

use ring::digest::{Context, SHA256};
use volary_model::Digest;

use crate::codec::Decoder;
use crate::front::{Front, next_member, read_header};
use crate::header::{self, Header, PayloadHeader, to_digest};
use crate::tar::{Member, TarReader};
use crate::wire::{AugmentHeaderInfo, HeaderInfo};
use crate::{Compression, Error, Info, Limits, PublicKey, Script};

/// Which signatures a reader demands.
#[derive(Debug, Clone, Copy)]
pub enum Signatures<'a> {
    /// Look at none.
    Ignore,
    /// There must be one by one of these keys.
    Require(&'a [PublicKey]),
}

/// Whether unsigned parts may override signed ones (Mender's `manifest-augment` and `header-augment`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Augment {
    /// Refuse such artifacts, as Mender's C++ clients do.
    #[default]
    Refuse,
    /// Take the override. Safe only if the update module checks the result against something signed.
    Accept,
}

/// What a reader accepts.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Which signatures are demanded.
    pub signatures: Signatures<'a>,
    /// Whether an augmented header is accepted.
    pub augment: Augment,
    /// How much memory and how many threads it may cost.
    pub limits: Limits,
}

impl Policy<'_> {
    /// No signature needed, nothing augmented, default limits.
    pub fn unsigned() -> Self {
        Self { signatures: Signatures::Ignore, augment: Augment::Refuse, limits: Limits::default() }
    }
}

impl<'a> Policy<'a> {
    /// Signed by one of these keys, nothing augmented, default limits.
    pub fn signed_by(keys: &'a [PublicKey]) -> Self {
        Self { signatures: Signatures::Require(keys), augment: Augment::Refuse, limits: Limits::default() }
    }
}

/// The artifact file itself, with its reads gathered.
pub(crate) type Outer<R> = TarReader<BufReader<R>>;

/// Reads one artifact.
pub struct Reader<R: Read> {
    info: Info,
    header: Header<HeaderInfo>,
    limits: Limits,
    place: Place<R>,
    /// Payloads whose member was opened.
    opened: usize,
    /// The file that is being read.
    current: Option<Current>,
}

/// Where the reader stands.
enum Place<R: Read> {
    Between(Outer<R>),
    Payload {
        tar: Box<TarReader<Decoder<Outer<R>>>>,
        seen: Vec<usize>,
    },
    End,
    /// After an error nothing more can be read.
    Failed,
}

/// A payload file that was begun.
struct Current {
    name: String,
    expected: Digest,
    /// None if the caller checks it.
    sum: Option<Context>,
}

impl<R: Read> Reader<R> {
    /// Reads and checks everything before the payload: version, manifest, signature, header.
    ///
    /// # Errors
    /// Any [`Error`] but those of writing: what is wrong with the artifact, or that it cannot be read.
    pub fn open(input: R, policy: &Policy<'_>) -> Result<Self, Error> {
        let limits = policy.limits;
        let mut tar = TarReader::new("artifact", BufReader::with_capacity(64 * 1024, input));
        let front = Front::read(&mut tar, policy)?;
        let Front { manifest, signature, header_name, compression, augment } = front;
        let bytes = read_header(&mut tar, &header_name, "header.tar", &manifest, &limits)?;
        let header = Header::<HeaderInfo>::parse(&header_name, &bytes, &limits)?;
        let mut info = header::assemble(&header, &manifest, compression, signature)?;
        if let Some(manifest) = augment {
            let member = next_member(&mut tar, "header-augment.tar")?;
            let bytes = read_header(&mut tar, &member.name, "header-augment.tar", &manifest, &limits)?;
            let over = Header::<AugmentHeaderInfo>::parse(&member.name, &bytes, &limits)?;
            header::augment(&mut info, &over, &manifest)?;
        }
        header::check_files(&info)?;
        Ok(Self { info, header, limits, place: Place::Between(tar), opened: 0, current: None })
    }

    /// What is known so far; sizes come as the payload is read.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The state scripts with their content.
    pub fn scripts(&self) -> &[Script] {
        &self.header.scripts
    }

    /// The bytes of `header-info`, as update modules get them.
    pub fn raw_header_info(&self) -> &[u8] {
        &self.header.raw_info
    }

    /// The bytes of a payload's `type-info` and `meta-data` (empty if there is none), as update modules
    /// get them; without what an augmented header changed.
    pub fn raw_payload_header(&self, payload: usize) -> Option<(&[u8], &[u8])> {
        self.header
            .payloads
            .get(payload)
            .map(|p: &PayloadHeader| (&p.raw_type_info[..], &p.raw_meta_data[..]))
    }

    /// The next payload file; none after the last, when the end of the artifact was checked too. What is left
    /// of the file before is read and checked first.
    ///
    /// # Errors
    /// As [`Reader::open`]. After an error the reader gives no more files.
    pub fn next_file(&mut self) -> Result<Option<PayloadFile<'_, R>>, Error> {
        if self.current.is_some() {
            io::copy(&mut FileBytes(self), &mut io::sink())?;
        }
        let found = self.find_file().inspect_err(|_| self.place = Place::Failed)?;
        Ok(found.map(|(payload, name, size)| PayloadFile { payload, name, size, reader: self }))
    }

    /// Reads and checks what is left, and returns all that is known now.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn finish(mut self) -> Result<Info, Error> {
        while let Some(file) = self.next_file()? {
            file.copy_to(&mut io::sink())?;
        }
        Ok(self.info)
    }

    fn find_file(&mut self) -> Result<Option<(usize, String, u64)>, Error> {
        loop {
            match std::mem::replace(&mut self.place, Place::Failed) {
                Place::Between(tar) => self.place = self.open_payload(tar)?,
                Place::Payload { mut tar, mut seen } => match tar.next()? {
                    Some(member) => {
                        let found = self.begin_file(member, &mut seen)?;
                        self.place = Place::Payload { tar, seen };
                        return Ok(Some(found));
                    }
                    None => self.place = Place::Between(self.close_payload(*tar, &seen)?),
                },
                Place::End => {
                    self.place = Place::End;
                    return Ok(None);
                }
                Place::Failed => {
                    return Err(Error::Read(io::Error::other("the artifact was already found to be broken")));
                }
            }
        }
    }

    /// Opens the next payload's member, or checks the end of the artifact.
    fn open_payload(&mut self, mut tar: Outer<R>) -> Result<Place<R>, Error> {
        let member = tar.next()?;
        let index = self.opened;
        let Some(payload) = self.info.payloads.get_mut(index) else {
            if let Some(member) = member {
                return Err(Error::Order { found: member.name, expected: "the end of the artifact".into() });
            }
            tar.finish()?;
            return Ok(Place::End);
        };
        let stem = format!("data/{index:04}.tar");
        let Some(member) = member else {
            return Err(Error::Missing { member: stem });
        };
        let Some(kind) = Compression::of_member(&member.name, &stem) else {
            return Err(Error::Order { found: member.name, expected: format!("{stem}[.gz|.xz|.zst]") });
        };
        payload.compression = Some(kind);
        payload.compressed_size = Some(member.size);
        self.opened += 1;
        let decoder = Decoder::new(&member.name, kind, tar, &self.limits)?;
        Ok(Place::Payload { tar: Box::new(TarReader::new(member.name, decoder)), seen: Vec::new() })
    }

    fn begin_file(&mut self, member: Member, seen: &mut Vec<usize>) -> Result<(usize, String, u64), Error> {
        let index = self.opened - 1;
        let full = format!("data/{index:04}/{}", member.name);
        let files = &mut self.info.payloads[index].files;
        let Some(at) = files.iter().position(|file| file.name == member.name) else {
            let reason = format!("{full} is in the payload and not in the manifest");
            return Err(Error::Manifest { member: "manifest", reason });
        };
        if seen.contains(&at) {
            return Err(Error::Order { found: full, expected: "each file only once".into() });
        }
        seen.push(at);
        files[at].size = Some(member.size);
        let sum = Some(Context::new(&SHA256));
        self.current = Some(Current { name: full, expected: files[at].digest, sum });
        Ok((index, member.name, member.size))
    }

    /// Checks the end of a payload and puts its files into the order of the archive.
    fn close_payload(
        &mut self,
        mut tar: TarReader<Decoder<Outer<R>>>,
        seen: &[usize],
    ) -> Result<Outer<R>, Error> {
        tar.finish()?;
        let outer = tar.into_inner().into_inner();
        if outer.left() > 0 {
            return Err(outer.refused("something follows the compressed payload in its member"));
        }
        let index = self.opened - 1;
        let files = &mut self.info.payloads[index].files;
        if let Some((_, missing)) = files.iter().enumerate().find(|(at, _)| !seen.contains(at)) {
            return Err(Error::Missing { member: format!("data/{index:04}/{}", missing.name) });
        }
        *files = seen.iter().map(|&at| files[at].clone()).collect();
        Ok(outer)
    }

    /// Bytes of the current file; checks the sum when there are no more.
    fn read_current(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Place::Payload { tar, .. }, Some(current)) = (&mut self.place, &mut self.current) else {
            return Ok(0);
        };
        let count = match tar.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.place = Place::Failed;
                self.current = None;
                return Err(error);
            }
            other => other?,
        };
        if let Some(sum) = &mut current.sum {
            sum.update(&buffer[..count]);
        }
        if tar.left() == 0 {
            let Current { name, expected, sum } = self.current.take().expect("borrowed above");
            if let Some(actual) = sum.map(to_digest)
                && actual != expected
            {
                self.place = Place::Failed;
                return Err(Error::Checksum { name, expected, actual }.into_io());
            }
        }
        Ok(count)
    }
}

/// A payload file as it streams by.
pub struct PayloadFile<'a, R: Read> {
    payload: usize,
    name: String,
    size: u64,
    reader: &'a mut Reader<R>,
}

impl<R: Read> PayloadFile<'_, R> {
    /// The index of its payload.
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// Its name: no folders in it, safe to use as a file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes, as declared; reading gives exactly so many or an error.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is known of the artifact.
    pub fn info(&self) -> &Info {
        &self.reader.info
    }

    /// Gives its bytes without hashing them, for who holds what became of them against the digest in
    /// [`PayloadFile::info`] before it is used, as an installer does that reads its disk back.
    #[must_use]
    pub fn unchecked(self) -> Self {
        if let Some(current) = &mut self.reader.current {
            current.sum = None;
        }
        self
    }

    /// Copies the whole file and checks it, unless it is [unchecked](Self::unchecked).
    ///
    /// # Errors
    /// As [`Reader::open`], and [`Error::Write`] if the bytes cannot be put where they belong. On an error, what
    /// was written must not be used.
    pub fn copy_to(mut self, output: &mut impl io::Write) -> Result<u64, Error> {
        let mut buffer = vec![0; 256 * 1024];
        let mut total = 0;
        loop {
            let count = match self.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            output.write_all(&buffer[..count]).map_err(Error::Write)?;
            total += count as u64;
        }
    }
}

impl<R: Read> Read for PayloadFile<'_, R> {
    /// The last bytes come only if the checksum of the whole file is right: otherwise the read that would
    /// give them fails with an error that [`Error`] can be made from. Not so if it is
    /// [unchecked](PayloadFile::unchecked).
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read_current(buffer)
    }
}

/// The rest of a file that its reader did not want.
struct FileBytes<'a, R: Read>(&'a mut Reader<R>);

impl<R: Read> Read for FileBytes<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_current(buffer)
    }
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("info", &self.info).finish_non_exhaustive()
    }
}
