//! Whether an ID token is from the provider, for us, for this log-in and of now. Pure: keys and time are
//! given.

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::http::auth::same;

/// Seconds by which the provider's clock may differ from ours.
const LEEWAY: i64 = 60;

/// What keys may sign with. All of them are asymmetric: whoever can check a signature cannot make one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a str,
    /// Now, in seconds.
    pub(crate) now: i64,
}

/// Why a token is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It names a key that is not among the known ones; there may be a new one.
    #[error("it is signed with a key that the provider does not name")]
    UnknownKey,
    /// It is wrong.
    #[error("{0}")]
    Wrong(String),
}

fn wrong(problem: impl Into<String>) -> TokenError {
    TokenError::Wrong(problem.into())
}

/// What the token says of the person, if it is to be believed.
pub(crate) fn verify(
    token: &str,
    keys: &JwkSet,
    expected: &Expected<'_>,
) -> Result<Map<String, Value>, TokenError> {
    let header = decode_header(token).map_err(|_| wrong("it is no signed token"))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(wrong(format!("it is signed by {:?}, which is not accepted", header.alg)));
    }
    let key = choose(keys, header.kid.as_deref())?;
    if key.common.key_algorithm.is_some_and(|own| own.to_string() != format!("{:?}", header.alg)) {
        return Err(wrong("its key is for another algorithm"));
    }
    let decoding = DecodingKey::from_jwk(key).map_err(|_| wrong("its key cannot be used"))?;
    let mut validation = Validation::new(header.alg);
    // What it says is looked at below, where the time is given and each reason has its sentence.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = decode::<Map<String, Value>>(token, &decoding, &validation)
        .map_err(|_| wrong("its signature does not fit"))?
        .claims;
    check(&claims, expected)?;
    Ok(claims)
}

/// The key that the header names; without a name the provider must have only one.
fn choose<'a>(keys: &'a JwkSet, kid: Option<&str>) -> Result<&'a Jwk, TokenError> {
    let mut signing =
        keys.keys.iter().filter(|key| !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption)));
    match kid {
        Some(kid) => {
            signing.find(|key| key.common.key_id.as_deref() == Some(kid)).ok_or(TokenError::UnknownKey)
        }
        None => match (signing.next(), signing.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(TokenError::UnknownKey),
        },
    }
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), TokenError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let number = |name: &str| {
        let found = claims.get(name);
        match found.map(|value| value.as_i64().or_else(|| value.as_f64().map(|value| value as i64))) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => Err(wrong(format!("its {name} is no time"))),
        }
    };
    if text("iss") != Some(expected.issuer) {
        return Err(wrong("it is from another issuer"));
    }
    let audience: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&expected.client_id) {
        return Err(wrong("it is for another client"));
    }
    let party = text("azp");
    if party.is_some_and(|party| party != expected.client_id) || (audience.len() > 1 && party.is_none()) {
        return Err(wrong("it was made for another client"));
    }
    if text("sub").is_none_or(|subject| subject.is_empty() || subject.len() > 255) {
        return Err(wrong("it names nobody"));
    }
    if number("exp")?.is_none_or(|end| end <= expected.now - LEEWAY) {
        return Err(wrong("it has expired; is the clock of the server right?"));
    }
    let early = expected.now + LEEWAY;
    if number("iat")?.is_none_or(|made| made > early) || number("nbf")?.is_some_and(|from| from > early) {
        return Err(wrong("it is from the future; is the clock of the server right?"));
    }
    if !text("nonce").is_some_and(|nonce| same(nonce.as_bytes(), expected.nonce.as_bytes())) {
        return Err(wrong("it is of another log-in"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    /// A provider's key, and its public half.
    pub(crate) struct Key {
        pair: EcdsaKeyPair,
        pub(crate) kid: &'static str,
    }

    impl Key {
        pub(crate) fn new(kid: &'static str) -> Self {
            let random = ring::rand::SystemRandom::new();
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).unwrap();
            Self { pair, kid }
        }

        pub(crate) fn public(&self) -> Value {
            let point = self.pair.public_key().as_ref();
            json!({
                "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
            })
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let text = format!("{}.{}", part(header), part(claims));
            let random = ring::rand::SystemRandom::new();
            let signature = self.pair.sign(&random, text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    const EXPECTED: Expected<'static> =
        Expected { issuer: "https://login.example", client_id: "volary", nonce: "n0nce", now: 1_000_000 };

    fn claims() -> Value {
        json!({
            "iss": "https://login.example", "aud": "volary", "sub": "0815", "nonce": "n0nce",
            "exp": 1_000_300, "iat": 999_999,
        })
    }

    fn set(keys: &[&Key]) -> JwkSet {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        serde_json::from_value(json!({ "keys": keys })).unwrap()
    }

    fn header(kid: &str) -> Value {
        json!({"alg": "ES256", "kid": kid})
    }

    fn check_claims(change: &[(&str, Value)], expected: Result<(), &str>) {
        let key = Key::new("one");
        let mut claims = claims();
        for (name, value) in change {
            claims[name] = value.clone();
        }
        let found = verify(&key.sign(&header("one"), &claims), &set(&[&key]), &EXPECTED);
        match (found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(TokenError::Wrong(problem)), Err(expected)) if problem.contains(expected) => {}
            (found, expected) => panic!("{change:?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn what_is_for_us_and_of_now_is_believed() {
        check_claims(&[], Ok(()));
        check_claims(&[("aud", json!(["volary", "x"])), ("azp", json!("volary"))], Ok(()));
        // The clocks may differ a little.
        check_claims(&[("exp", json!(999_941))], Ok(()));
        check_claims(&[("iat", json!(1_000_060))], Ok(()));
    }

    #[test]
    fn what_is_of_others_or_of_another_time_is_not() {
        check_claims(&[("iss", json!("https://login.example/"))], Err("another issuer"));
        check_claims(&[("aud", json!("other"))], Err("another client"));
        check_claims(&[("aud", json!(["other"]))], Err("another client"));
        check_claims(&[("aud", Value::Null)], Err("another client"));
        check_claims(&[("aud", json!(["volary", "x"]))], Err("another client"));
        check_claims(&[("azp", json!("other"))], Err("another client"));
        check_claims(&[("nonce", json!("other"))], Err("another log-in"));
        check_claims(&[("nonce", Value::Null)], Err("another log-in"));
        check_claims(&[("exp", json!(999_940))], Err("expired"));
        check_claims(&[("exp", json!("never"))], Err("no time"));
        check_claims(&[("exp", Value::Null)], Err("no time"));
        check_claims(&[("iat", json!(1_000_061))], Err("future"));
        check_claims(&[("nbf", json!(1_000_061))], Err("future"));
        check_claims(&[("sub", json!(""))], Err("nobody"));
    }

    #[test]
    fn only_the_provider_s_keys_sign() {
        let (key, foreign) = (Key::new("one"), Key::new("one"));
        let check = |token: &str, keys: &[&Key], expected: &str| {
            let problem = verify(token, &set(keys), &EXPECTED).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem:?}, not {expected:?}");
        };
        let good = key.sign(&header("one"), &claims());
        assert!(verify(&good, &set(&[&key]), &EXPECTED).is_ok());
        check(&foreign.sign(&header("one"), &claims()), &[&key], "does not fit");
        check(&good, &[&Key::new("two")], "a key that the provider does not name");
        check(&key.sign(&json!({"alg": "ES256"}), &claims()), &[&key, &Key::new("two")], "does not name");
        assert!(verify(&key.sign(&json!({"alg": "ES256"}), &claims()), &set(&[&key]), &EXPECTED).is_ok());
        // Not signed at all, or signed with what everybody knows.
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let bare = format!("{}.{}", part(&json!({"alg": "none", "kid": "one"})), part(&claims()));
        check(&format!("{bare}."), &[&key], "no signed token");
        check(&bare, &[&key], "no signed token");
        check(&key.sign(&json!({"alg": "HS256", "kid": "one"}), &claims()), &[&key], "HS256, which is not");
        check(&key.sign(&json!({"alg": "RS256", "kid": "one"}), &claims()), &[&key], "another algorithm");
        // Changed after it was signed.
        let mut parts: Vec<&str> = good.split('.').collect();
        let mut other = claims();
        other["sub"] = json!("0816");
        let other = part(&other);
        parts[1] = &other;
        check(&parts.join("."), &[&key], "does not fit");
        check("x", &[&key], "no signed token");
        check("", &[&key], "no signed token");
    }

    #[test]
    fn rsa_is_believed_too() {
        // From RFC 7515, appendix A.2: the key, and its signature of claims that say nothing of us.
        let keys: JwkSet = serde_json::from_value(json!({"keys": [{"kty": "RSA", "e": "AQAB", "n":
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}))
        .unwrap();
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let problem = verify(token, &keys, &EXPECTED).unwrap_err().to_string();
        assert!(problem.contains("another issuer"), "its signature fits: {problem}");
        let problem = verify(&token.replace("cC4h", "cC4i"), &keys, &EXPECTED).unwrap_err().to_string();
        assert!(problem.contains("does not fit"), "{problem}");
    }
}
