//! Accounts with passwords: the rules for names and passwords, their hashes, and the door for whoever sits
//! at the server itself. What people may do by the API is in `http::users`.

use std::path::Path;
use std::sync::OnceLock;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString, rand_core::OsRng};
use argon2::{Algorithm, Argon2, Params, Version};
use volary_api::v1::fleet::Role;
use volary_api::v1::user::User;
use volary_store::{Store, StoreError};

use crate::http::auth::{role_from, role_text};
use crate::{Layout, ServerError};

/// The least length of a password in characters: with the pause between guesses, and 19 MiB for each guess
/// at a stolen hash, no rule about digits and signs is needed.
const LEAST: usize = 12;

/// The greatest length in bytes: a passphrase fits, a flood does not.
const MOST: usize = 1024;

/// KiB of memory, passes and lanes of argon2id: what OWASP's cheat sheet on storing passwords advises, some
/// 30 ms.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);

/// What becomes of an account.
#[derive(Clone)]
pub enum UserChange {
    /// It is made.
    Add {
        /// What the person may do.
        role: Role,
        /// Its password.
        password: String,
    },
    /// Its person may do something else from now on.
    Role(Role),
    /// It gets another password, and its sessions end.
    Password(String),
    /// It is taken away, and its sessions end.
    Remove,
}

/// Why an account is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// The name, role or password cannot be one.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("there is a user {0:?} already")]
    Taken(String),
    /// Nobody has the name.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// The records failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Changes an account in the records of the server in `dir`, whether it runs or not: for whoever sits at the
/// server itself, and for its first administrator.
///
/// # Errors
/// [`ServerError`]: not a server's folder, a name or password that cannot be one.
pub fn change_user(dir: &Path, name: &str, change: UserChange) -> Result<(), ServerError> {
    let refused = |error: AccountError| match error {
        AccountError::Store(error) => ServerError::Store(error),
        error => ServerError::Option(error.to_string()),
    };
    in_store(dir, async |store| {
        let (kind, what) = told(&change);
        self::change(store, name, change, None).await.map_err(refused)?;
        let text = format!("{name} {what} on the server itself");
        store.add_event(volary_host::now(), kind, name, &text, None).await?;
        Ok(())
    })
}

/// The accounts of the server in `dir`.
///
/// # Errors
/// [`ServerError`].
pub fn users(dir: &Path) -> Result<Vec<User>, ServerError> {
    in_store(dir, async |store| Ok(store.users().await?.into_iter().map(api_user).collect()))
}

fn in_store<T>(
    dir: &Path,
    work: impl AsyncFnOnce(&Store) -> Result<T, ServerError>,
) -> Result<T, ServerError> {
    let layout = Layout::new(dir);
    if !layout.config().is_file() {
        return Err(ServerError::NotInitialised(layout.root().to_owned()));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServerError::Start)?;
    runtime.block_on(async {
        let store = Store::open(&layout.database()).await?;
        let done = work(&store).await;
        store.close().await;
        done
    })
}

/// The event's kind, and what follows the account's name in its text.
pub(crate) fn told(change: &UserChange) -> (&'static str, String) {
    match change {
        UserChange::Add { role, .. } => ("user-made", format!("got an account as {}", role_text(*role))),
        UserChange::Role(role) => ("user-role", format!("got the role {}", role_text(*role))),
        UserChange::Password(_) => ("user-password", "got another password".into()),
        UserChange::Remove => ("user-removed", "lost the account".into()),
    }
}

/// Changes an account. Of its sessions `keep` stays after a change of the password.
pub(crate) async fn change(
    store: &Store,
    name: &str,
    change: UserChange,
    keep: Option<i64>,
) -> Result<(), AccountError> {
    let unknown = |found: bool| found.then_some(()).ok_or_else(|| AccountError::Unknown(name.to_owned()));
    let now = volary_host::now();
    match change {
        UserChange::Add { role, password } => {
            check_name(name).map_err(AccountError::Invalid)?;
            check_role(role).map_err(AccountError::Invalid)?;
            let hash = checked_hash(name, password).await?;
            let added = store.add_user(name, role_text(role), &hash, now).await?;
            added.then_some(()).ok_or_else(|| AccountError::Taken(name.to_owned()))
        }
        UserChange::Role(role) => {
            check_role(role).map_err(AccountError::Invalid)?;
            unknown(store.set_user_role(name, role_text(role)).await?)
        }
        UserChange::Password(password) => {
            let hash = checked_hash(name, password).await?;
            unknown(store.set_user_password(name, &hash, keep, now).await?)
        }
        UserChange::Remove => unknown(store.remove_user(name).await?),
    }
}

async fn checked_hash(name: &str, password: String) -> Result<String, AccountError> {
    check_password(name, &password).map_err(AccountError::Invalid)?;
    let hashed = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    Ok(hashed.expect("hashing a password does not panic"))
}

/// A record as others see it.
pub(crate) fn api_user(user: volary_store::User) -> User {
    User {
        role: role_from(&user.role),
        name: user.name,
        created_at: user.created_at,
        password_at: user.password_at,
        used_at: user.used_at,
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("a user's name has 1 to 64 letters, digits and -_.@+".into());
    }
    Ok(())
}

/// Refuses roles that no person has.
pub(crate) fn check_role(role: Role) -> Result<(), String> {
    match role {
        Role::Upload => Err("the role upload is for tokens; see: volary token add --help".into()),
        Role::Gate => Err("the role gate is for tokens; see: volary token add --help".into()),
        Role::Admin | Role::ReleaseManager | Role::Operator | Role::Developer | Role::Viewer => Ok(()),
    }
}

fn check_password(name: &str, password: &str) -> Result<(), String> {
    let length = password.chars().count();
    if length < LEAST {
        return Err(format!("the password has {length} characters; it needs at least {LEAST}"));
    }
    if password.len() > MOST {
        return Err(format!("the password is longer than {MOST} bytes"));
    }
    let mut letters = password.chars();
    let first = letters.next();
    if letters.all(|letter| Some(letter) == first) || password.to_lowercase().contains(&name.to_lowercase()) {
        return Err(
            "the password can be guessed: it is one letter over and over, or has the user's name in it"
                .to_owned(),
        );
    }
    Ok(())
}

fn argon2() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).expect("the parameters are within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// What is kept of a password.
pub(crate) fn hash_password(password: &str) -> String {
    let salt = SaltString::generate(&mut OsRng);
    argon2().hash_password(password.as_bytes(), &salt).expect("the salt is one of argon2's").to_string()
}

/// Whether this is the password of the hash. Without a hash it takes as long and says no, so that the time
/// does not tell which accounts there are.
pub(crate) fn is_password(password: &str, hash: Option<&str>) -> bool {
    static NOBODY: OnceLock<String> = OnceLock::new();
    if password.len() > MOST {
        return false;
    }
    let kept = hash.unwrap_or_else(|| NOBODY.get_or_init(|| hash_password("nobody has this password")));
    let right = PasswordHash::new(kept)
        .is_ok_and(|kept| argon2().verify_password(password.as_bytes(), &kept).is_ok());
    right && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_that_can_be_guessed_are_refused() {
        let check = |name: &str, password: &str, expected: &str| {
            let problem = check_password(name, password).unwrap_err();
            assert!(problem.contains(expected), "{password}: {problem}");
        };
        check("alice", "short", "has 5 characters; it needs at least 12");
        check("alice", "ääääääääääää", "can be guessed");
        check("alice", "I-am-Alice-2026", "can be guessed");
        check("alice", &"ab".repeat(600), "longer than 1024 bytes");
        assert_eq!(check_password("alice", "correct horse battery"), Ok(()));
    }

    #[test]
    fn a_hash_opens_for_its_password_alone_and_nobody_has_a_password() {
        let hash = hash_password("correct horse battery");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, hash_password("correct horse battery"), "each has a salt of its own");
        assert!(is_password("correct horse battery", Some(&hash)));
        assert!(!is_password("correct horse batterz", Some(&hash)));
        assert!(!is_password("nobody has this password", None));
        assert!(!is_password("x", Some("no hash at all")));
    }
}
