//! Small values by name, as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Store, StoreError};

impl Store {
    /// The value under `key`, if there is one that still reads.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn setting<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let text: Option<String> = sqlx::query_scalar("SELECT value FROM settings WHERE key = $1")
            .bind(key)
            .fetch_optional(&self.reader)
            .await?;
        text.map(|text| {
            serde_json::from_str(&text).map_err(|_| StoreError::Corrupt { what: "setting", text })
        })
        .transpose()
    }

    /// Replaces the value under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_setting<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let text = serde_json::to_string(value).expect("a setting is JSON");
        sqlx::query(
            "INSERT INTO settings (key, value) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(key)
        .bind(text)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}
