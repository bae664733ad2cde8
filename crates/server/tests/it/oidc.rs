//! Signing in through a provider: as it should be, and as attackers would like it. The provider here says
//! whatever a test wants; a real one is in `browser`.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::recorder::Recorder;
use crate::support::{Answer, Client, TestServer, wait_for, write};
use crate::users::{PASSWORD, add};

struct Key {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        let random = ring::rand::SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).unwrap();
        Self { pair, kid }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": x, "y": y})
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.kid})), part(claims));
        let signature = self.pair.sign(&ring::rand::SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What the provider says next.
struct Says {
    keys: Vec<Value>,
    id_token: String,
}

/// A provider, and a server that knows it.
struct Stand {
    server: TestServer,
    provider: Recorder,
    says: Arc<Mutex<Says>>,
    key: Key,
}

/// A log-in on its way.
struct Begun {
    cookie: String,
    state: String,
    nonce: String,
    challenge: String,
}

impl Stand {
    fn new() -> Self {
        let key = Key::new("one");
        let says = Arc::new(Mutex::new(Says { keys: vec![key.public()], id_token: String::new() }));
        let (told, url) = (says.clone(), Arc::new(Mutex::new(String::new())));
        let own = url.clone();
        let provider = Recorder::start(move |request| {
            let (says, url) = (told.lock().unwrap(), own.lock().unwrap());
            let path = request.line.split(' ').nth(1).unwrap_or_default();
            let body = match path {
                "/.well-known/openid-configuration" => json!({
                    "issuer": *url, "authorization_endpoint": format!("{url}/authorize"),
                    "token_endpoint": format!("{url}/token"), "jwks_uri": format!("{url}/keys"),
                }),
                "/keys" => json!({"keys": says.keys}),
                "/token" => json!({"id_token": says.id_token, "access_token": "x", "token_type": "Bearer"}),
                _ => return (404, String::new()),
            };
            (200, body.to_string())
        });
        *url.lock().unwrap() = provider.url();
        let mut server = TestServer::made();
        let config = server.made.dir.join("server.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let oidc = format!(
            "[oidc]\nissuer = \"{}\"\nclient_id = \"volary\"\nclient_secret_file = \"oidc.secret\"\n\
             name = \"Example\"\n[oidc.roles]\nops = \"operator\"\n",
            provider.url()
        );
        write(&config, format!("{text}{oidc}"));
        write(server.made.dir.join("oidc.secret"), "s3cret\n");
        server.resume();
        Self { server, provider, says, key }
    }

    fn begin(&self, next: &str) -> Begun {
        let answer = self.server.anonymous().get(&format!("/login/oidc?next={next}"));
        assert_eq!(answer.status.as_u16(), 303, "{}", answer.text());
        let address = answer.header("location").to_owned();
        assert!(address.starts_with(&format!("{}/authorize?", self.provider.url())), "{address}");
        let of = |name: &str| {
            let (_, rest) = address.split_once(&format!("&{name}=")).unwrap();
            rest.split('&').next().unwrap().to_owned()
        };
        assert_eq!(of("code_challenge_method"), "S256");
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        Begun { cookie, state: of("state"), nonce: of("nonce"), challenge: of("code_challenge") }
    }

    fn claims(&self, begun: &Begun) -> Value {
        let now = volary_host::now().as_second();
        json!({
            "iss": self.provider.url(), "aud": "volary", "sub": "0815", "nonce": begun.nonce,
            "email": "alice@example.com", "groups": ["ops"], "iat": now, "exp": now + 300,
        })
    }

    fn says(&self, id_token: String) {
        self.says.lock().unwrap().id_token = id_token;
    }

    fn back(&self, cookie: &str, state: &str) -> Answer {
        let path = format!("/login/oidc/callback?code=c0de&state={state}");
        self.server.anonymous().get_with(&path, &[("cookie", cookie)])
    }

    #[track_caller]
    fn refused(&self, answer: &Answer, status: u16, part: &str) {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
        assert!(
            !answer
                .headers
                .get_all("set-cookie")
                .iter()
                .any(|cookie| { cookie.to_str().unwrap().starts_with("volary_token") })
        );
    }
}

fn session(answer: &Answer) -> String {
    let cookies = answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
    let cookie = cookies.filter_map(|cookie| cookie.strip_prefix("volary_token=")).next().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

#[test]
fn somebody_whom_the_provider_knows_signs_in_with_the_role_of_their_group() {
    let stand = Stand::new();
    assert!(stand.server.anonymous().get("/login").text().contains("Sign in with Example"));
    let begun = stand.begin("/alerts");
    stand.says(stand.key.sign(&stand.claims(&begun)));
    let answer = stand.back(&begun.cookie, &begun.state);
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/alerts"), "{}", answer.text());
    let asked = stand.provider.told().into_iter().find(|request| request.line.contains("/token")).unwrap();
    assert_eq!(asked.header("authorization"), Some("Basic dm9sYXJ5OnMzY3JldA=="));
    let form = String::from_utf8(asked.body).unwrap();
    let verifier = form.split('&').find_map(|field| field.strip_prefix("code_verifier=")).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())), begun.challenge);

    let alice = Client::new(&stand.server, Some(session(&answer)), None);
    let me: Value = alice.get("/api/v1/me").json();
    assert_eq!(me["name"], "alice@example.com");
    assert_eq!(
        (&me["role"], &me["how"], &me["subject"]),
        (&json!("operator"), &json!("oidc"), &json!("0815"))
    );
    let silence = json!({"matchers": ["stage=canary"], "seconds": 60, "reason": "test"});
    assert!(alice.post("/api/v1/silences", &silence).status.is_success());
    alice.post("/api/v1/releases", &json!({"name": "v1"})).refused(403, "[oidc.roles] in server.toml");
    let events: Vec<Value> = stand.server.admin().get("/api/v1/events?people=true").json();
    let by = json!({"name": "alice@example.com", "how": "oidc", "subject": "0815"});
    for kind in ["alert-silenced", "signed-in"] {
        assert!(events.iter().any(|event| event["kind"] == kind && event["by"] == by), "{kind}: {events:?}");
    }
}

#[test]
fn a_log_in_is_ended_once_and_by_the_browser_that_began_it() {
    let stand = Stand::new();
    let begun = stand.begin("/");
    stand.says(stand.key.sign(&stand.claims(&begun)));
    let foreign = stand.begin("/");
    stand.refused(&stand.back("", &begun.state), 400, "did not begin in this browser");
    stand.refused(&stand.back(&foreign.cookie, &begun.state), 400, "did not begin in this browser");
    stand.refused(&stand.back("volary_oidc=", ""), 400, "did not begin in this browser");
    assert_eq!(stand.back(&begun.cookie, &begun.state).status.as_u16(), 303);
    // The same answer once more.
    stand.refused(&stand.back(&begun.cookie, &begun.state), 400, "over already");
    // Another log-in does not take the token of this one.
    stand.refused(&stand.back(&foreign.cookie, &foreign.state), 403, "of another log-in");
}

#[test]
fn tokens_that_are_not_the_provider_s_for_us_are_not_believed() {
    let stand = Stand::new();
    let check = |change: &[(&str, Value)], status, part: &str| {
        let begun = stand.begin("/");
        let mut claims = stand.claims(&begun);
        for (name, value) in change {
            claims[name] = value.clone();
        }
        stand.says(stand.key.sign(&claims));
        stand.refused(&stand.back(&begun.cookie, &begun.state), status, part);
    };
    check(&[("aud", json!("other"))], 403, "for another client");
    check(&[("iss", json!("https://evil.example"))], 403, "from another issuer");
    check(&[("nonce", json!("x"))], 403, "of another log-in");
    check(&[("exp", json!(1_000_000_000))], 403, "has expired");
    check(&[("groups", json!(["others"]))], 403, "in no group that may do anything here");
    check(&[("groups", Value::Null)], 403, "in no group that may do anything here");
    let begun = stand.begin("/");
    stand.says(Key::new("one").sign(&stand.claims(&begun)));
    stand.refused(&stand.back(&begun.cookie, &begun.state), 403, "its signature does not fit");
    let begun = stand.begin("/");
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    stand.says(format!("{}.{}.", part(json!({"alg": "none"})), part(stand.claims(&begun))));
    stand.refused(&stand.back(&begun.cookie, &begun.state), 403, "no signed token");
    // The provider says no, and another provider's answer is not taken for this one's.
    let begun = stand.begin("/");
    let path = format!("/login/oidc/callback?error=access_denied&state={}", begun.state);
    let answer = stand.server.anonymous().get_with(&path, &[("cookie", &begun.cookie)]);
    stand.refused(&answer, 403, "access_denied");
    let begun = stand.begin("/");
    stand.says(stand.key.sign(&stand.claims(&begun)));
    let path = format!("/login/oidc/callback?code=x&iss=https%3A%2F%2Fevil.example&state={}", begun.state);
    let answer = stand.server.anonymous().get_with(&path, &[("cookie", &begun.cookie)]);
    stand.refused(&answer, 403, "of another provider");
    assert!(stand.server.events("signed-in").is_empty());
}

#[test]
fn nobody_is_led_away_after_a_log_in() {
    let stand = Stand::new();
    for evil in ["https%3A%2F%2Fevil.example", "%2F%2Fevil.example", "%2F%5Cevil.example"] {
        let begun = stand.begin(evil);
        stand.says(stand.key.sign(&stand.claims(&begun)));
        assert_eq!(stand.back(&begun.cookie, &begun.state).header("location"), "/", "{evil}");
    }
}

#[test]
fn while_the_provider_is_away_passwords_tokens_and_sessions_go_on() {
    let mut stand = Stand::new();
    add(&stand.server, "bob", "viewer");
    let begun = stand.begin("/");
    stand.says(stand.key.sign(&stand.claims(&begun)));
    let alice = session(&stand.back(&begun.cookie, &begun.state));
    let begun = stand.begin("/");
    stand.provider.go_away();
    let answer = stand.back(&begun.cookie, &begun.state);
    stand.refused(&answer, 502, "Example cannot be asked now");
    assert!(answer.text().contains("sign in at /login as before"));
    assert!(Client::new(&stand.server, Some(alice), None).get("/api/v1/me").status.is_success());
    let login = json!({"user": "bob", "password": PASSWORD});
    assert!(stand.server.anonymous().post("/api/v1/login", &login).status.is_success());
    // Also a server that starts meanwhile.
    stand.server.stop();
    stand.server.resume();
    assert!(stand.server.admin().get("/api/v1/me").status.is_success());
    stand.refused(&stand.server.anonymous().get("/login/oidc"), 502, "cannot be asked now");
    stand.provider.come_back();
    stand.begin("/");
}

#[test]
fn a_new_key_of_the_provider_is_found() {
    let stand = Stand::new();
    stand.begin("/");
    let new = Key::new("two");
    stand.says.lock().unwrap().keys.push(new.public());
    // The keys are not asked for again at once: else anybody could make the server ask all the time.
    wait_for("the new key", || {
        let begun = stand.begin("/");
        stand.says(new.sign(&stand.claims(&begun)));
        (stand.back(&begun.cookie, &begun.state).status.as_u16() == 303).then_some(())
    });
}
