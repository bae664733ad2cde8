//! Keys as OpenSSL writes them: those that Mender knows are read in every form, the others are refused with a remedy.

mod common;

use common::Keys;
use volary_artifact::{KeyKind, PrivateKey, PublicKey};
use volary_host::{Cmd, read_to_string};

#[test]
fn every_form_of_a_key_is_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let ec_old = Keys::make(dir.path(), "a", &["ecparam", "-genkey", "-name", "prime256v1"]);
    let rsa_new =
        Keys::make(dir.path(), "b", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    for (keys, kind, old) in [(ec_old, KeyKind::EcdsaP256, "ec"), (rsa_new, KeyKind::Rsa, "rsa")] {
        let key = keys.private();
        assert_eq!(key.public_key(), &keys.public());
        assert_eq!(key.public_key().kind(), kind);
        let forms: [&[&str]; 2] =
            [&["pkcs8", "-topk8", "-nocrypt"], if old == "rsa" { &["rsa", "-traditional"] } else { &["ec"] }];
        for form in forms {
            let output = Cmd::new("openssl").args(form).arg("-in").arg(&keys.private).check().unwrap();
            assert_eq!(
                PrivateKey::from_pem(&output.text()).unwrap().public_key(),
                key.public_key(),
                "{form:?}"
            );
            assert_eq!(&PublicKey::from_pem(&output.text()).unwrap(), key.public_key(), "{form:?}");
        }
        assert!(!format!("{key:?}").contains("secret"));
    }
}

#[test]
fn other_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], private: &str, public: &str| {
        let keys = Keys::make(dir.path(), "k", args);
        let said = PrivateKey::from_pem(&read_to_string(&keys.private).unwrap()).unwrap_err().to_string();
        assert!(said.contains(private), "{said}");
        let said = PublicKey::from_pem(&read_to_string(&keys.public).unwrap()).unwrap_err().to_string();
        assert!(said.contains(public), "{said}");
    };
    refused(&["genpkey", "-algorithm", "ED25519"], "neither ECDSA on P-256 nor RSA", "Ed25519");
    refused(&["ecparam", "-genkey", "-noout", "-name", "secp384r1"], "curve P-256", "only the curve P-256");
    let encrypted = ["genpkey", "-algorithm", "RSA", "-aes-128-cbc", "-pass", "pass:secret"];
    let text = Cmd::new("openssl").args(encrypted).check().unwrap().text();
    assert!(PrivateKey::from_pem(&text).unwrap_err().to_string().contains("encrypted"));
    for text in
        ["", "hello", "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", "-----BEGIN X-----"]
    {
        assert!(PublicKey::from_pem(text).is_err(), "{text}");
        assert!(PrivateKey::from_pem(text).is_err(), "{text}");
    }
}
