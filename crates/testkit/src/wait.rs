//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use crate::LabError;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Looks until `look` gives `Ok`; its `Err` says what is there instead, and the last of these
/// stands in the error.
///
/// # Errors
/// [`LabError::Waited`] after `timeout`.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if started.elapsed() > timeout => {
                return Err(LabError::Waited { what: what.to_owned(), timeout, last });
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_look_stands_in_the_error() {
        let mut looks = 0;
        let error = wait_until("rain", Duration::from_millis(150), || {
            looks += 1;
            Err::<(), _>(format!("look {looks}: sun"))
        });
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("waited 0 s for rain; last seen: look ") && looks > 1, "{text}");
    }
}
