//! stub
use crate::app::App;
use axum::extract::State;
use std::sync::Arc;
pub(crate) async fn home(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn trace(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn build(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn login_form(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn login(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn logout(State(_): State<Arc<App>>) -> &'static str {
    ""
}
pub(crate) async fn asset(State(_): State<Arc<App>>) -> &'static str {
    ""
}
