//! People with a password of their own, and who is signed in. Only hashes are kept.

use jiff::Timestamp;
use volary_model::Digest;

use crate::db::{ms, time};
use crate::{Store, StoreError};

/// A person's account on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What the person may do, as the server writes roles.
    pub role: String,
    /// The password's hash, as a PHC string.
    pub password: String,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When the password was set.
    pub password_at: Timestamp,
    /// When one of the person's sessions was used last, if there is one.
    pub used_at: Option<Timestamp>,
}

/// Somebody who signs in.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// SHA-256 of the session's secret.
    pub hash: &'a Digest,
    /// The person, as records name them.
    pub person: &'a str,
    /// How: `password`, `oidc`.
    pub how: &'a str,
    /// The account on this server, if the person has one.
    pub account: Option<&'a str>,
    /// What the person may do, if there is no account that says so.
    pub role: &'a str,
    /// What the provider calls the person.
    pub subject: Option<&'a str>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Rises.
    pub id: i64,
    /// The person, as records name them.
    pub person: String,
    /// How they signed in: `password`, `oidc`.
    pub how: String,
    /// The account on this server, if the person has one.
    pub account: Option<String>,
    /// What they may do now.
    pub role: String,
    /// What the provider calls them.
    pub subject: Option<String>,
    /// When they signed in.
    pub created_at: Timestamp,
    /// When the session was used last, give or take some minutes.
    pub used_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Name, role, password, when made, when the password was set, when used last.
type UserRow = (String, String, String, i64, i64, Option<i64>);

/// Id, person, how, account, role, subject, made, used, ends.
type SessionRow = (i64, String, String, Option<String>, String, Option<String>, i64, i64, i64);

/// An account's role is what the account says now.
const SESSIONS: &str = "SELECT id, person, how, account, coalesce(users.role, sessions.role), subject,
    sessions.created_at, used_at, expires_at FROM sessions LEFT JOIN users ON users.name = account";

impl Store {
    /// All accounts by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        let rows: Vec<UserRow> = sqlx::query_as(
            "SELECT name, role, password, created_at, password_at,
               (SELECT max(used_at) FROM sessions WHERE account = name) FROM users ORDER BY name",
        )
        .fetch_all(&self.reader)
        .await?;
        Ok(rows.into_iter().map(user).collect())
    }

    /// The account of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        let row: Option<UserRow> = sqlx::query_as(
            "SELECT name, role, password, created_at, password_at, NULL FROM users WHERE name = $1",
        )
        .bind(name)
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.map(user))
    }

    /// Makes an account. Returns false if the name is taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_user(
        &self,
        name: &str,
        role: &str,
        password: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO users (name, role, password, created_at, password_at) VALUES ($1, $2, $3, $4, $4)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(role)
        .bind(password)
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes an account away, and ends its sessions. Returns false if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_user(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM users WHERE name = $1").bind(name).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives an account another role, from the next request on. Returns false if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_user_role(&self, name: &str, role: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE users SET role = $2 WHERE name = $1")
            .bind(name)
            .bind(role)
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Sets a password and ends all sessions of the account but `keep`, in one step. Returns false if
    /// there is no such account.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_user_password(
        &self,
        name: &str,
        password: &str,
        keep: Option<i64>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query("UPDATE users SET password = $2, password_at = $3 WHERE name = $1")
            .bind(name)
            .bind(password)
            .bind(ms(now))
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM sessions WHERE account = $1 AND id <> $2")
            .bind(name)
            .bind(keep.unwrap_or(0))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Begins a session, and forgets those that ended. One for an account only begins if its password is
    /// still `password`, the hash that was looked at: else somebody set another meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_session(
        &self,
        new: &NewSession<'_>,
        password: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(ms(now)).execute(&mut *tx).await?;
        let done = sqlx::query(
            "INSERT INTO sessions
               (hash, person, how, account, role, subject, created_at, used_at, expires_at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $7, $8
             WHERE $4 IS NULL OR EXISTS (SELECT 1 FROM users WHERE name = $4 AND password = $9)",
        )
        .bind(new.hash.hex())
        .bind(new.person)
        .bind(new.how)
        .bind(new.account)
        .bind(new.role)
        .bind(new.subject)
        .bind(ms(now))
        .bind(ms(new.expires_at))
        .bind(password)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// The session with this hash, if it has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session(&self, hash: &Digest, now: Timestamp) -> Result<Option<Session>, StoreError> {
        let text = format!("{SESSIONS} WHERE hash = $1 AND expires_at > $2");
        let row: Option<SessionRow> = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(hash.hex())
            .bind(ms(now))
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.map(session))
    }

    /// All sessions that have not ended, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sessions(&self, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        let text = format!("{SESSIONS} WHERE expires_at > $1 ORDER BY id DESC");
        let rows: Vec<SessionRow> =
            sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(ms(now)).fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(session).collect())
    }

    /// Notes that a session was used.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session_used(&self, id: i64, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE sessions SET used_at = $2 WHERE id = $1")
            .bind(id)
            .bind(ms(now))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Ends a session. Returns false if it is over already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_session(&self, id: i64) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }
}

fn user((name, role, password, created_at, password_at, used_at): UserRow) -> User {
    let (created_at, password_at) = (time(created_at), time(password_at));
    User { name, role, password, created_at, password_at, used_at: used_at.map(time) }
}

fn session(row: SessionRow) -> Session {
    let (id, person, how, account, role, subject, created_at, used_at, expires_at) = row;
    Session {
        id,
        person,
        how,
        account,
        role,
        subject,
        created_at: time(created_at),
        used_at: time(used_at),
        expires_at: time(expires_at),
    }
}
