//! When certificates end. Of X.509 only as much is read as stands before the date.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::files::Root;
use super::sink::Sink;

/// The most certificates of one file; a chain has three or four.
const MOST: usize = 200;

/// What files said last, with the time and size that they had.
#[derive(Debug, Default)]
pub struct Certificates {
    known: BTreeMap<String, ([i64; 3], Option<Timestamp>)>,
}

impl Certificates {
    /// Looks at these files; those that are not there have no number.
    pub fn look<'a>(
        &mut self,
        root: &Root,
        files: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
        sink: &mut Sink<'_>,
    ) {
        let name = "certificate_expiry_seconds";
        if !sink.wants(&[name]) {
            return;
        }
        for file in files {
            let left = self.end(root, file).map(|end| end.duration_since(now).as_secs());
            #[expect(clippy::cast_precision_loss, reason = "8000 years are exact")]
            sink.put_of(name, "file", file, left.map(|seconds| seconds as f64));
        }
    }

    fn end(&mut self, root: &Root, file: &str) -> Option<Timestamp> {
        let facts = fs::metadata(root.at(file)).ok()?;
        let stamp = [facts.mtime(), facts.ino().cast_signed(), facts.size().cast_signed()];
        if let Some((_, end)) = self.known.get(file).filter(|(known, _)| *known == stamp) {
            return *end;
        }
        let end = first_end(root.text(file)?.as_bytes());
        self.known.insert(file.to_owned(), (stamp, end));
        end
    }
}

/// When the first of some certificates (PEM) ends.
fn first_end(pem: &[u8]) -> Option<Timestamp> {
    let certificates = CertificateDer::pem_slice_iter(pem).take(MOST);
    certificates.filter_map(|certificate| not_after(&certificate.ok()?)).min()
}

/// `notAfter` of a certificate: version, number, algorithm and issuer stand before it (RFC 5280, 4.1).
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if let Some((VERSION, _, after)) = element(rest) {
        rest = after;
    }
    for _ in ["number", "algorithm", "issuer"] {
        (_, _, rest) = element(rest)?;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, after) = element(validity)?;
    let (tag, time, _) = element(after)?;
    moment(tag, std::str::from_utf8(time).ok()?)
}

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The tag and the content of the first element of DER, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ` until 2049, `YYYYMMDDhhmmssZ` from then on.
fn moment(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest): (i16, &str) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2).and_then(|part| part.parse::<i8>().ok());
    let time = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(until: (i32, u8, u8)) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["device".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn the_first_end_counts() {
        let day = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let (soon, late) = (certificate((2027, 2, 3)), certificate((2061, 4, 5)));
        assert_eq!(first_end(soon.as_bytes()), day("2027-02-03T00:00:00Z"));
        assert_eq!(first_end(late.as_bytes()), day("2061-04-05T00:00:00Z"));
        assert_eq!(first_end(format!("{late}{soon}").as_bytes()), day("2027-02-03T00:00:00Z"));
    }

    #[test]
    fn nothing_makes_it_fall_over() {
        assert_eq!(first_end(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), None);
        let whole = CertificateDer::from_pem_slice(certificate((2027, 2, 3)).as_bytes()).unwrap();
        for end in 0..whole.len() {
            assert_eq!(not_after(&whole[..end]), None);
            let mut other = whole.to_vec();
            other[end] ^= 0xff;
            let _ = not_after(&other);
        }
        for text in ["991332000000Z", "2702030000", "", "Z", "27020300000éZ"] {
            assert_eq!(moment(UTC_TIME, text), None, "{text}");
        }
    }
}
