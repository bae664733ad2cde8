//! The certificate authority of one fleet: it signs the server's certificate and the devices'.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use volary_model::{DeviceName, Digest};
use x509_parser::prelude::FromDer;

use crate::{Layout, ServerError};

/// Certificates are good from long before they are made, since a device without a battery for its
/// clock starts in the past and must reach the server all the same.
const NOT_BEFORE: (i32, u8, u8) = (2000, 1, 1);

/// Authority and device certificates end with the century's half: a device that lay in a drawer
/// for years must come back without a visit. What ends a device is its record, at each request.
const NOT_AFTER: (i32, u8, u8) = (2060, 1, 1);

/// How long a server certificate is good: browsers refuse more than 398 days.
const SERVER_DAYS: u64 = 397;

/// How long before its end it is replaced.
const RENEW_DAYS: u64 = 60;

const DAY: Duration = Duration::from_secs(86_400);

/// The authority with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A signing request that is not to be signed.
#[derive(Debug, thiserror::Error)]
#[error("the signing request is not valid: {0}")]
pub(crate) struct InvalidRequest(String);

impl Authority {
    /// Makes a new authority and writes it.
    pub(crate) fn create(layout: &Layout, fleet: &str) -> Result<Self, ServerError> {
        let path = layout.ca_key();
        let failed = failed("make", &path);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Volary CA of {fleet}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = rcgen::date_time_ymd(NOT_BEFORE.0, NOT_BEFORE.1, NOT_BEFORE.2);
        params.not_after = rcgen::date_time_ymd(NOT_AFTER.0, NOT_AFTER.1, NOT_AFTER.2);
        let certificate = params.self_signed(&key).map_err(&failed)?.pem();
        volary_host::write_atomic(&path, key.serialize_pem().as_bytes(), 0o600)?;
        volary_host::write_atomic(&layout.ca_certificate(), certificate.as_bytes(), 0o644)?;
        Self::load(layout)
    }

    /// Reads the authority that [`Authority::create`] wrote.
    pub(crate) fn load(layout: &Layout) -> Result<Self, ServerError> {
        let key = volary_host::read_to_string(&layout.ca_key())?;
        let certificate = volary_host::read_to_string(&layout.ca_certificate())?;
        let key = KeyPair::from_pem(&key).map_err(failed("read", &layout.ca_key()))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate, key).map_err(failed("read", &layout.ca_certificate()))?;
        Ok(Self { issuer, certificate })
    }

    /// The authority's certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes the server's certificate anew if it is missing, close to its end or for other hosts.
    pub(crate) fn renew_server(&self, layout: &Layout, hosts: &[String]) -> Result<bool, ServerError> {
        let names = server_names(hosts);
        if server_certificate_is_good(layout, &names) {
            return Ok(false);
        }
        let path = layout.tls_certificate();
        let failed = failed("make", &path);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
        let mut params = CertificateParams::new(names).map_err(&failed)?;
        params.distinguished_name = named(hosts.first().map_or("volary", String::as_str));
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A day back, for clients whose clock is a little behind.
        let now = std::time::SystemTime::now();
        params.not_before = (now - DAY).into();
        params.not_after = (now + DAY * u32::try_from(SERVER_DAYS).expect("it is small")).into();
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        // The key first: a new key with the old certificate is noticed and mended at the next
        // start, since the certificate is missing or does not fit.
        volary_host::remove_if_exists(&path)?;
        volary_host::write_atomic(&layout.tls_key(), key.serialize_pem().as_bytes(), 0o600)?;
        volary_host::write_atomic(&path, certificate.pem().as_bytes(), 0o644)?;
        Ok(true)
    }

    /// Signs a device's request: only its key is taken from it; the name is the one that the
    /// server's records have.
    pub(crate) fn certify(&self, name: &DeviceName, csr: &str) -> Result<String, InvalidRequest> {
        let invalid = |error: rcgen::Error| InvalidRequest(error.to_string());
        let mut request = CertificateSigningRequestParams::from_pem(csr).map_err(invalid)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name.as_str());
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = rcgen::date_time_ymd(NOT_BEFORE.0, NOT_BEFORE.1, NOT_BEFORE.2);
        params.not_after = rcgen::date_time_ymd(NOT_AFTER.0, NOT_AFTER.1, NOT_AFTER.2);
        request.params = params;
        Ok(request.signed_by(&self.issuer).map_err(invalid)?.pem())
    }
}

/// SHA-256 of the public key in a PEM signing request, whose own signature is checked: a key that
/// the sender does not have is no key.
pub(crate) fn fingerprint_of_request(csr: &str) -> Result<Digest, InvalidRequest> {
    CertificateSigningRequestParams::from_pem(csr).map_err(|error| InvalidRequest(error.to_string()))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr.as_bytes())
        .map_err(|error| InvalidRequest(error.to_string()))?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| InvalidRequest(error.to_string()))?;
    Ok(digest(request.certification_request_info.subject_pki.raw))
}

/// SHA-256 of the public key in a DER certificate.
pub(crate) fn fingerprint_of_certificate(der: &[u8]) -> Option<Digest> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(digest(certificate.public_key().raw))
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// A certificate chain with its key.
pub(crate) type CertificateAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The server's certificate and key.
pub(crate) fn server_certificate(layout: &Layout) -> Result<CertificateAndKey, ServerError> {
    let (path, key_path) = (layout.tls_certificate(), layout.tls_key());
    let certificates = rustls_pemfile::certs(&mut volary_host::read(&path)?.as_slice())
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed("read", &path))?;
    let key = rustls_pemfile::private_key(&mut volary_host::read(&key_path)?.as_slice())
        .map_err(failed("read", &key_path))?
        .ok_or_else(|| ServerError::Certificate {
            operation: "read",
            path: key_path.clone(),
            detail: "there is no key in it".into(),
        })?;
    Ok((certificates, key))
}

fn server_names(hosts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = hosts.to_vec();
    names.extend(["localhost".into(), "127.0.0.1".into(), "::1".into()]);
    names.sort();
    names.dedup();
    names
}

fn server_certificate_is_good(layout: &Layout, names: &[String]) -> bool {
    let Ok((certificates, _)) = server_certificate(layout) else { return false };
    let Some(Ok((_, certificate))) = certificates.first().map(|der| x509_parser::parse_x509_certificate(der))
    else {
        return false;
    };
    let Ok(now) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) else { return false };
    let left =
        certificate.validity().not_after.timestamp() - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let fresh = left > i64::try_from(RENEW_DAYS * DAY.as_secs()).expect("it is small");
    fresh && names_in(&certificate) == names
}

fn names_in(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
                16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    names.sort();
    names
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn failed<E: std::fmt::Display>(operation: &'static str, path: &Path) -> impl Fn(E) -> ServerError {
    move |error| ServerError::Certificate { operation, path: path.to_owned(), detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (tempfile::TempDir, Layout, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for folder in ["ca", "tls"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let authority = Authority::create(&layout, "test").unwrap();
        (dir, layout, authority)
    }

    #[test]
    fn the_server_certificate_is_made_again_only_when_needed() {
        let (_dir, layout, authority) = authority();
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = hosts(&["volary.example", "192.0.2.1"]);
        assert!(authority.renew_server(&layout, &first).unwrap());
        assert!(!authority.renew_server(&layout, &first).unwrap());
        assert!(authority.renew_server(&layout, &hosts(&["other.example"])).unwrap());
        volary_host::write_atomic(&layout.tls_certificate(), b"torn", 0o644).unwrap();
        assert!(authority.renew_server(&layout, &hosts(&["other.example"])).unwrap());
    }

    #[test]
    fn a_device_certificate_has_the_key_of_the_request_and_the_name_of_the_records() {
        let (_dir, _layout, authority) = authority();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["evil.example".into()]).unwrap();
        params.distinguished_name = named("somebody-else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = authority.certify(&"dev-1".parse().unwrap(), &csr).unwrap();
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der.contents).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=dev-1");
        assert!(!certificate.is_ca());
        assert!(names_in(&certificate).is_empty());
        assert_eq!(fingerprint_of_certificate(&der.contents).unwrap(), fingerprint_of_request(&csr).unwrap());
    }

    #[test]
    fn garbage_is_no_signing_request() {
        for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
            assert!(fingerprint_of_request(text).is_err());
        }
    }
}
