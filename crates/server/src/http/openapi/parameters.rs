//! What stands in braces in a path.

/// The names of a path's parameters in their order.
pub(super) fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// What a parameter of a path is.
///
/// # Panics
/// For one that is not known here: each has a sentence.
pub(super) fn text(path: &str, name: &str) -> &'static str {
    let before = path.split(&format!("/{{{name}}}")).next().unwrap_or_default();
    let before = before.rsplit('/').next().unwrap_or_default();
    match (before, name) {
        ("uploads", "id") => "The upload: 32 lower-case hexadecimal digits that the client chooses.",
        (_, "file") => "The file's name.",
        ("releases", "name") => "The release's name.",
        ("exports", "name") => "The export's name, from `server.toml`.",
        ("images", "artifact") => "The SHA-256 of the artifact, in 64 hexadecimal digits.",
        ("images", "name") => {
            "The SHA-256 of the artifact, in 64 lower-case hexadecimal digits; with `.blocks` after it for the file \
             of its blocks."
        }
        ("mirrors", "name") => "The mirror's name.",
        ("imports", "id") => "The import's number.",
        ("sources", "name") => "The source's name.",
        ("builds", "id") => "The build's number.",
        ("devices", "name") => "The device's name.",
        ("metrics", "series") => {
            "The name of a series with its labels; without labels all series of this name."
        }
        ("tokens", "name") => "The token's name.",
        ("users", "name") => "The account's name.",
        ("sessions", "id") => "The session's number.",
        ("rollouts", "stage") => "The stage.",
        ("alerts", "id") => "The alert's number.",
        ("silences", "id") => "The silence's number.",
        _ => panic!("the parameter {name} of {path} has no description"),
    }
}
