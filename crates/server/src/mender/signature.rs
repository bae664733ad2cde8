//! The keys of Mender clients, and their signatures over requests. RSA and ECDSA sign the SHA-256 of the
//! body, Ed25519 the body itself; ECDSA is DER here, and not bare as in artifacts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use sha2::{Digest as _, Sha256};
use volary_model::Digest;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519_KEY: &str = "1.3.101.112";

/// A client's public key.
pub(crate) struct ClientKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
    /// The SHA-256 of its `SubjectPublicKeyInfo`, as for every device.
    pub(crate) fingerprint: Digest,
}

impl ClientKey {
    /// Reads a PEM `PUBLIC KEY`.
    ///
    /// # Errors
    /// Why it is no key that can be checked.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| "the public key is not PEM".to_owned())?;
        if pem.label != "PUBLIC KEY" {
            return Err(format!("a PEM {:?} is no PUBLIC KEY", pem.label));
        }
        let (rest, info) = SubjectPublicKeyInfo::from_der(&pem.contents)
            .map_err(|_| "the public key cannot be read".to_owned())?;
        if !rest.is_empty() {
            return Err("something follows the public key".to_owned());
        }
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| Oid::try_from(parameters).ok());
        let (kind, curve) =
            (&info.algorithm.algorithm.to_id_string(), curve.map(|curve| curve.to_id_string()));
        let algorithm: &'static dyn VerificationAlgorithm = match (kind.as_str(), curve.as_deref()) {
            (RSA, _) => &RSA_PKCS1_2048_8192_SHA256,
            (ED25519_KEY, _) => &ED25519,
            (EC, Some(P256)) => &ECDSA_P256_SHA256_ASN1,
            (EC, Some(P384)) => &ECDSA_P384_SHA256_ASN1,
            _ => return Err("the public key is neither RSA, ECDSA on P-256 or P-384, nor Ed25519".to_owned()),
        };
        Ok(Self {
            algorithm,
            bytes: info.subject_public_key.data.to_vec(),
            fingerprint: Digest::from_bytes(Sha256::digest(&pem.contents).into()),
        })
    }

    /// True if the base64 `signature` over `body` is by this key.
    pub(crate) fn signed(&self, body: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature.trim()) else { return false };
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(body, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as `openssl` would sign it with a key of this kind.
    fn sign(folder: &std::path::Path, key: &[&str], body: &[u8]) -> (String, String) {
        let openssl =
            |args: &[&str]| volary_host::Cmd::new("openssl").cwd(folder).args(args).check().unwrap().stdout;
        openssl(&[&["genpkey", "-out", "key.pem"], key].concat());
        volary_host::write_atomic(&folder.join("body"), body, 0o644).unwrap();
        let public = openssl(&["pkey", "-in", "key.pem", "-pubout"]);
        let signature = match key.contains(&"ed25519") {
            true => openssl(&["pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "body"]),
            false => openssl(&["dgst", "-sha256", "-sign", "key.pem", "body"]),
        };
        (String::from_utf8(public).unwrap(), STANDARD.encode(signature))
    }

    #[test]
    fn every_kind_of_key_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let body = b"{\"id_data\":\"{}\",\"pubkey\":\"\\u003c\"}\n";
        let kinds: [&[&str]; 4] = [
            &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:3072"],
            &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
            &["-algorithm", "ed25519"],
        ];
        for kind in kinds {
            let (pem, signature) = sign(folder.path(), kind, body);
            let key = ClientKey::from_pem(&pem).unwrap();
            assert!(key.signed(body, &signature), "{kind:?}");
            assert!(key.signed(body, &format!("{signature}\n")), "{kind:?}");
            assert!(!key.signed(&body[..body.len() - 1], &signature), "{kind:?}: each byte counts");
            assert!(!key.signed(body, "AAAA") && !key.signed(body, "%"), "{kind:?}");
        }
        let (small, _) =
            sign(folder.path(), &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"], body);
        assert!(ClientKey::from_pem(&small).is_ok_and(|key| !key.signed(body, "AAAA")));
    }

    #[test]
    fn what_is_no_key_says_why() {
        let check = |pem: &str, expected: &str| {
            let error = ClientKey::from_pem(pem).err().unwrap();
            assert!(error.contains(expected), "{error}");
        };
        check("", "not PEM");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is no PUBLIC KEY");
        check("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read");
        let x25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAI7EecN6qIwdR6nyaZRwfUKqWsOFHZ7badIi3en2Qyy0=\n-----END PUBLIC KEY-----\n";
        check(x25519, "neither RSA");
    }
}
