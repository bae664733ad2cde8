//! Tokens of people and programs. Only hashes are kept: a stolen database opens no door.

use jiff::Timestamp;
use volary_model::Digest;

use crate::db::{ms, time};
use crate::{Store, StoreError};

/// A person's or a program's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who or what uses it.
    pub name: String,
    /// What it may do, as the server writes roles.
    pub role: String,
    /// SHA-256 of the secret.
    pub hash: Digest,
    /// What it may upload, if it may do nothing else: JSON as the server writes it.
    pub limits: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last.
    pub used_at: Option<Timestamp>,
}

/// Name, role, hash, limits, when it was made, when it was used last.
type Row = (String, String, String, Option<String>, i64, Option<i64>);

impl Store {
    /// All tokens by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT name, role, hash, limits, created_at, used_at FROM tokens ORDER BY name")
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter()
            .map(|(name, role, hash, limits, created_at, used_at)| {
                let hash = Digest::from_hex(&hash)
                    .map_err(|_| StoreError::Corrupt { what: "token's hash", text: name.clone() })?;
                Ok(Token {
                    name,
                    role,
                    hash,
                    limits,
                    created_at: time(created_at),
                    used_at: used_at.map(time),
                })
            })
            .collect()
    }

    /// Adds a token. Returns false if the name is taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_token(
        &self,
        name: &str,
        role: &str,
        hash: &Digest,
        limits: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO tokens (name, role, hash, limits, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(role)
        .bind(hash.hex())
        .bind(limits)
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a token away. Returns false if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tokens WHERE name = $1").bind(name).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a token was used.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn token_used(&self, name: &str, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE tokens SET used_at = $2 WHERE name = $1")
            .bind(name)
            .bind(ms(now))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
