//! Numbers of variable length in bytes, and their reading without trust: what is read may be damaged.

/// What a reader finds that no writer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

/// Appends an unsigned number, seven bits a byte, the lowest first.
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number; small ones of either sign are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, zigzag(number));
}

/// How many bytes [`put_signed`] takes.
pub(crate) fn signed_len(number: i64) -> usize {
    (70 - (zigzag(number) | 1).leading_zeros() as usize) / 7
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// Reads from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// True at the end.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.0.split_first().ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// What [`put`] wrote.
    pub(crate) fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damaged("a number is too long"))
    }

    /// What [`put_signed`] wrote.
    pub(crate) fn signed(&mut self) -> Result<i64, Damaged> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// A number of things of at least `size` bytes each that follow: no more than there are bytes for.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, Damaged> {
        let count = usize::try_from(self.number()?).map_err(|_| Damaged("a count is too large"))?;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(Damaged("a count is too large")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        for number in [0, 1, -1, 63, -64, 64, 8191, -8192, 8192, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_signed(&mut out, number);
            assert_eq!(out.len(), signed_len(number), "{number}");
            let mut reader = Reader(&out);
            assert_eq!(reader.signed(), Ok(number));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn damage_is_an_error() {
        assert!(Reader(&[0x80]).number().is_err());
        assert!(Reader(&[0xff; 11]).number().is_err());
        assert!(Reader(&[200, 1, 0]).count(1).is_err());
    }
}
