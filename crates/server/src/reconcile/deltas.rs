//! Makes block files and pairs of images, one after the other: none of it is urgent, and devices that come first
//! fetch whole artifacts.

use std::sync::Arc;

use crate::app::App;
use crate::image_deltas::wanted;
use crate::image_use::pins;

/// Makes what is missing.
pub(super) async fn deltas(app: Arc<App>) -> Result<(), String> {
    let mut problem = None;
    let mut tried = Vec::new();
    loop {
        // Anew each time: minutes have passed, and what is pinned now goes first.
        let images = app.store.images().await.map_err(|error| error.to_string())?;
        let all = wanted(&images, &pins(&app.view.get()));
        let missing =
            |delta: &crate::image_deltas::Delta| !tried.contains(delta) && !app.images.delta(delta).is_file();
        let Some(delta) = all.into_iter().find(missing) else { break };
        let (images, job) = (app.images.clone(), delta.clone());
        let made = tokio::task::spawn_blocking(move || images.make(&job)).await;
        if let Err(error) = made.map_err(|error| error.to_string())? {
            problem.get_or_insert(format!("{delta:?}: {error}"));
        }
        tried.push(delta);
    }
    problem.map_or(Ok(()), Err)
}
