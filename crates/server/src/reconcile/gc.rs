//! Removes from the archive what nothing names any more.

use std::sync::Arc;

use crate::app::App;
use crate::http::upkeep;

/// One collection.
pub(super) async fn gc(app: Arc<App>) -> Result<(), String> {
    upkeep::run(&app, false, None).await.map(drop).map_err(|refusal| refusal.sentence().to_owned())
}
