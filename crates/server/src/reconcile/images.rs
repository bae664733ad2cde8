//! Removes images that nobody needs any more, and files without a record. What is needed decides
//! `image_use`.

use std::collections::BTreeSet;
use std::sync::Arc;

use volary_model::Digest;

use crate::app::App;
use crate::http::image::forget;
use crate::image_use::{pins, surplus};

/// Looks at all images, and removes.
pub(super) async fn images(app: Arc<App>) -> Result<(), String> {
    let text = |error: volary_store::StoreError| error.to_string();
    let _turn = app.changing_images.lock().await;
    let known = app.store.images().await.map_err(text)?;
    let records: BTreeSet<Digest> = known.iter().map(|image| image.artifact).collect();
    for stray in app.images.all().map_err(|error| error.to_string())? {
        if !records.contains(&stray) {
            app.images.remove(&stray).map_err(|error| error.to_string())?;
        }
    }
    let view = app.view.get();
    let pins = pins(&view);
    let now = volary_host::now();
    let pinned: Vec<Digest> = pins.iter().map(|pin| pin.image.artifact).collect();
    app.store.images_wanted(&pinned, now).await.map_err(text)?;
    // As long as a stage cannot be read, nobody can say what it needs.
    if !view.complete {
        return Ok(());
    }
    for artifact in surplus(&known, &pins, &app.config.images, now) {
        forget(&app, &artifact).await.map_err(|refusal| refusal.sentence().to_owned())?;
        let gone = known.iter().find(|image| image.artifact == artifact);
        if let Some(image) = gone {
            let text =
                format!("image {} was removed: no stage pins it, and newer ones are there", image.name);
            app.event("image-removed", image.name.as_str(), &text).await;
        }
    }
    Ok(())
}
