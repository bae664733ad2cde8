//! The five commands of a TPM 2.0 that a device needs, and their answers, as bytes. Names are those
//! of the TPM 2.0 Library Specification, parts 2 and 3. Pure: nothing is sent here.
//!
//! Answers come from a device that may be broken or false, so each length is checked before it is
//! believed, and nothing is longer than [`LONGEST`].

/// No answer of these commands is longer; the kernel has the same limit.
pub const LONGEST: usize = 4096;

/// Tag, length, and code begin each command and answer.
pub const HEADER: usize = 10;

const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_ST_SESSIONS: u16 = 0x8002;
const TPM_ST_HASHCHECK: u16 = 0x8024;

const TPM_CC_CREATE_PRIMARY: u32 = 0x131;
const TPM_CC_CREATE: u32 = 0x153;
const TPM_CC_LOAD: u32 = 0x157;
const TPM_CC_SIGN: u32 = 0x15D;
const TPM_CC_FLUSH_CONTEXT: u32 = 0x165;

const TPM_RH_OWNER: u32 = 0x4000_0001;
const TPM_RH_NULL: u32 = 0x4000_0007;
/// An authorisation by a password, which is empty here.
const TPM_RS_PW: u32 = 0x4000_0009;

const TPM_ALG_AES: u16 = 0x0006;
const TPM_ALG_SHA256: u16 = 0x000B;
const TPM_ALG_NULL: u16 = 0x0010;
const TPM_ALG_ECDSA: u16 = 0x0018;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_CFB: u16 = 0x0043;
const TPM_ECC_NIST_P256: u16 = 0x0003;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA: made here, stays here, and a
/// wrong password somewhere else never locks it.
const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// Answers that mean "ask again": `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`.
const BUSY: [u32; 3] = [0x908, 0x90A, 0x922];

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The TPM says no.
    #[error("it answers with error {0:#05x}; tpm2_rc_decode says what that means")]
    Code(u32),
    /// It is not what the specification says.
    #[error("its answer is not understood")]
    Strange,
}

/// A key that was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// The inside of `TPM2B_PRIVATE`.
    pub private: Vec<u8>,
}

/// The storage key of the owner: the same each time as long as the owner's seed is.
pub fn create_primary() -> Vec<u8> {
    let mut template = head_of_public(ATTRIBUTES | RESTRICTED | DECRYPT);
    template.u16(TPM_ALG_AES).u16(128).u16(TPM_ALG_CFB).u16(TPM_ALG_NULL);
    tail_of_public(&mut template);
    create_below(TPM_CC_CREATE_PRIMARY, TPM_RH_OWNER, &template.0)
}

/// A key for signatures below the key `parent`.
pub fn create(parent: u32) -> Vec<u8> {
    let mut template = head_of_public(ATTRIBUTES | SIGN);
    template.u16(TPM_ALG_NULL).u16(TPM_ALG_ECDSA).u16(TPM_ALG_SHA256);
    tail_of_public(&mut template);
    create_below(TPM_CC_CREATE, parent, &template.0)
}

fn head_of_public(attributes: u32) -> Writer {
    let mut public = Writer::default();
    // No policy.
    public.u16(TPM_ALG_ECC).u16(TPM_ALG_SHA256).u32(attributes).sized(&[]);
    public
}

fn tail_of_public(public: &mut Writer) {
    // The curve, no key derivation, and no wish for the point.
    public.u16(TPM_ECC_NIST_P256).u16(TPM_ALG_NULL).sized(&[]).sized(&[]);
}

fn create_below(code: u32, parent: u32, template: &[u8]) -> Vec<u8> {
    let mut parameters = Writer::default();
    // No password and no data: the TPM makes the secret.
    let mut secret = Writer::default();
    secret.sized(&[]).sized(&[]);
    // No outside data, and no registers to note.
    parameters.sized(&secret.0).sized(template).sized(&[]).u32(0);
    authorised(code, parent, &parameters.0)
}

/// Loads a key below the key `parent`.
pub fn load(parent: u32, private: &[u8], public: &[u8]) -> Vec<u8> {
    let mut parameters = Writer::default();
    parameters.sized(private).sized(public);
    authorised(TPM_CC_LOAD, parent, &parameters.0)
}

/// Signs a digest.
pub fn sign(key: u32, digest: &[u8; 32]) -> Vec<u8> {
    let mut parameters = Writer::default();
    parameters.sized(digest).u16(TPM_ALG_ECDSA).u16(TPM_ALG_SHA256);
    // The key is not restricted, so it need not be proven that the TPM made the digest.
    parameters.u16(TPM_ST_HASHCHECK).u32(TPM_RH_NULL).sized(&[]);
    authorised(TPM_CC_SIGN, key, &parameters.0)
}

/// Forgets what is loaded.
pub fn flush(handle: u32) -> Vec<u8> {
    let mut body = Writer::default();
    body.u32(handle);
    command(TPM_ST_NO_SESSIONS, TPM_CC_FLUSH_CONTEXT, &body.0)
}

/// A command on an object whose password is empty.
fn authorised(code: u32, handle: u32, parameters: &[u8]) -> Vec<u8> {
    let mut session = Writer::default();
    // No nonce, no attributes, no password.
    session.u32(TPM_RS_PW).sized(&[]).u8(0).sized(&[]);
    let mut body = Writer::default();
    body.u32(handle).u32(length_of(&session.0)).raw(&session.0).raw(parameters);
    command(TPM_ST_SESSIONS, code, &body.0)
}

fn command(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let mut whole = Writer::default();
    whole.u16(tag).u32(length_of(body) + HEADER as u32).u32(code).raw(body);
    whole.0
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("no command has four gigabytes")
}

/// The length that an answer says it has, if that can be true.
pub fn length(answer: &[u8]) -> Option<usize> {
    let mut reader = Reader(answer);
    let (_, length) = (reader.u16().ok()?, reader.u32().ok()?);
    usize::try_from(length).ok().filter(|length| (HEADER..=LONGEST).contains(length))
}

/// True if the answer is to ask again.
pub fn is_busy(answer: &[u8]) -> bool {
    let mut reader = Reader(answer);
    let code = reader.u16().and_then(|_| reader.u32()).and_then(|_| reader.u32());
    code.is_ok_and(|code| BUSY.contains(&code))
}

/// Reads the answer of a command that loads something: its handle.
pub fn handle(answer: &[u8]) -> Result<u32, Problem> {
    body(answer)?.u32()
}

/// Reads the answer of [`create`].
pub fn created(answer: &[u8]) -> Result<Made, Problem> {
    let mut reader = parameters(answer)?;
    let (private, public) = (reader.sized()?.to_vec(), reader.sized()?.to_vec());
    point(&public)?;
    Ok(Made { public, private })
}

/// Reads the answer of [`sign`]: the signature in DER.
pub fn signature(answer: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut reader = parameters(answer)?;
    if (reader.u16()?, reader.u16()?) != (TPM_ALG_ECDSA, TPM_ALG_SHA256) {
        return Err(Problem::Strange);
    }
    let (r, s) = (number(reader.sized()?)?, number(reader.sized()?)?);
    // Each is at most 35 bytes long, so that one byte holds every length.
    let mut der = vec![0x30, (r.len() + s.len()) as u8];
    der.extend(r);
    der.extend(s);
    Ok(der)
}

/// The point of a `TPMT_PUBLIC` on P-256, uncompressed.
pub fn point(public: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut reader = Reader(public);
    let kind = (reader.u16()?, reader.u16()?);
    reader.u32()?;
    reader.sized()?;
    let parameters = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    let expected = [TPM_ALG_NULL, TPM_ALG_ECDSA, TPM_ALG_SHA256, TPM_ECC_NIST_P256, TPM_ALG_NULL];
    if kind != (TPM_ALG_ECC, TPM_ALG_SHA256) || parameters != expected {
        return Err(Problem::Strange);
    }
    let mut point = vec![4];
    for _ in 0..2 {
        let coordinate = reader.sized()?;
        // Some leave zeros at the front out.
        let missing = 32_usize.checked_sub(coordinate.len()).ok_or(Problem::Strange)?;
        point.extend(std::iter::repeat_n(0, missing));
        point.extend(coordinate);
    }
    Ok(point)
}

/// A number without sign as DER wants it: as short as can be, and not negative.
fn number(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let start = bytes.iter().position(|&byte| byte != 0).ok_or(Problem::Strange)?;
    let digits = &bytes[start..];
    if digits.len() > 32 {
        return Err(Problem::Strange);
    }
    let sign = digits[0] >= 0x80;
    let mut der = vec![0x02, digits.len() as u8 + u8::from(sign)];
    der.extend(sign.then_some(0));
    der.extend(digits);
    Ok(der)
}

/// What comes after the header of an answer that is well.
fn body(answer: &[u8]) -> Result<Reader<'_>, Problem> {
    if length(answer) != Some(answer.len()) {
        return Err(Problem::Strange);
    }
    let mut reader = Reader(answer);
    reader.u16()?;
    reader.u32()?;
    match reader.u32()? {
        0 => Ok(reader),
        code => Err(Problem::Code(code)),
    }
}

/// What comes after the length of the parameters, of an answer with an authorisation.
fn parameters(answer: &[u8]) -> Result<Reader<'_>, Problem> {
    let mut reader = body(answer)?;
    let length = usize::try_from(reader.u32()?).map_err(|_| Problem::Strange)?;
    Ok(Reader(reader.0.get(..length).ok_or(Problem::Strange)?))
}

/// Big-endian, as everything in a TPM is.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, number: u8) -> &mut Self {
        self.raw(&[number])
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }

    /// `TPM2B`: the length, then the bytes. Those from disk are short enough since they are cut.
    fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        let bytes = &bytes[..bytes.len().min(LONGEST / 2)];
        self.u16(bytes.len() as u16).raw(bytes)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Problem::Strange)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Problem> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two were taken")))
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four were taken")))
    }

    fn sized(&mut self) -> Result<&'a [u8], Problem> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u32, body: &[u8]) -> Vec<u8> {
        command(TPM_ST_SESSIONS, code, body)
    }

    #[test]
    fn commands_are_as_the_specification_says() {
        assert_eq!(flush(0x8000_0001), b"\x80\x01\0\0\0\x0e\0\0\x01\x65\x80\0\0\x01");
        let sign = sign(0x8000_0001, &[7; 32]);
        assert_eq!(length(&sign), Some(sign.len()));
        // Handle, nine bytes of authorisation, the digest with its length.
        assert_eq!(sign[10..31], *b"\x80\0\0\x01\0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\x20\x07\x07");
        assert_eq!(sign[60..], *b"\x07\0\x18\0\x0b\x80\x24\x40\0\0\x07\0\0");
    }

    #[test]
    fn a_signature_becomes_der() {
        let mut body = Writer::default();
        let mut inner = Writer::default();
        let (r, s) = ([0x80; 32], [[0; 31].as_slice(), &[5]].concat());
        inner.u16(TPM_ALG_ECDSA).u16(TPM_ALG_SHA256).sized(&r).sized(&s);
        body.u32(length_of(&inner.0)).raw(&inner.0);
        let der = signature(&answer(0, &body.0)).unwrap();
        assert_eq!(der[..5], [0x30, 38, 2, 33, 0]);
        assert_eq!(der[37..], [2, 1, 5]);
    }

    #[test]
    fn bad_answers_are_refused() {
        assert_eq!(handle(&answer(0x9a2, &[])), Err(Problem::Code(0x9a2)));
        assert_eq!(handle(&answer(0, &[0, 0])), Err(Problem::Strange));
        assert!(is_busy(&answer(0x922, &[])) && !is_busy(&answer(0, &[])) && !is_busy(&[]));
        let whole = answer(0, &[0; 40]);
        for cut in 0..whole.len() {
            assert_eq!(created(&whole[..cut]), Err(Problem::Strange));
            assert_eq!(signature(&whole[..cut]), Err(Problem::Strange));
        }
        // Lengths that lie.
        for lie in [0_u32, 9, 11, 5000, u32::MAX] {
            let mut lying = answer(0, &[0; 4]);
            lying[2..6].copy_from_slice(&lie.to_be_bytes());
            assert_eq!(handle(&lying), Err(Problem::Strange), "{lie}");
        }
        let mut body = Writer::default();
        body.u32(4).u16(u16::MAX).u16(1);
        assert_eq!(created(&answer(0, &body.0)), Err(Problem::Strange));
        body = Writer::default();
        body.u32(u32::MAX).u16(0);
        assert_eq!(created(&answer(0, &body.0)), Err(Problem::Strange));
    }

    #[test]
    fn no_garbage_makes_it_panic() {
        // A few thousand answers of a well-formed head and changing content.
        let mut state = 1_u64;
        for round in 0..20_000_usize {
            let mut body = vec![0; round % 150];
            for byte in &mut body {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = if state >> 63 == 0 { 0 } else { (state >> 40) as u8 };
            }
            let whole = answer(0, &body);
            let _ = (created(&whole), signature(&whole), handle(&whole), point(&body));
        }
    }
}
