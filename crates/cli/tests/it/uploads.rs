//! Uploads of a build machine by `volary archive upload`.

use crate::support::Desk;

#[test]
fn a_build_machine_uploads_what_its_token_allows() {
    let desk = Desk::new();
    let token = desk.ok(&[
        "token",
        "add",
        "ci",
        "--role",
        "upload",
        "--packages",
        "hello*,lib?oo",
        "--components",
        "main",
    ]);
    let config = desk.folder().join("client.toml");
    let text = volary_host::read_to_string(&config).unwrap();
    let own = text.lines().find(|line| line.starts_with("token")).unwrap();
    let text = text.replace(own, &format!("token = \"{}\"", token.trim()));
    let ci = desk.folder().join("ci.toml");
    volary_host::write_atomic(&ci, text.as_bytes(), 0o600).unwrap();
    let ci = ci.display().to_string();
    let [hello, doc, other] =
        [desk.deb("hello", "1.0", ""), desk.deb("hello-doc", "1.0", ""), desk.deb("other", "1.0", "")];

    let said = desk.ok(&["--config", &ci, "archive", "upload", &hello, &doc]);
    assert_eq!(said.lines().filter(|line| line.starts_with("added")).count(), 2, "{said}");
    let said = desk.ok(&["--config", &ci, "archive", "upload", &hello]);
    assert!(said.starts_with("there already hello 1.0"), "{said}");
    let (status, said) = desk.fails(&["--config", &ci, "archive", "upload", &other]);
    assert!(status == 1 && said.contains("other_1.0_all.deb is refused: it is other 1.0 (all)"), "{said}");
    let symbols = desk.deb("hello-dbgsym", "1.0", "Auto-Built-Package: debug-symbols\n");
    let (_, said) = desk.fails(&["--config", &ci, "archive", "upload", &symbols]);
    assert!(said.contains("hello-dbgsym 1.0") && said.contains("hello*, lib?oo in main"), "{said}");
    let (_, said) = desk.fails(&["--config", &ci, "archive", "list"]);
    assert!(said.contains("role viewer"), "{said}");
    let tokens = desk.ok(&["token", "list"]);
    assert!(tokens.contains("hello* lib?oo in main"), "{tokens}");
    assert!(desk.ok(&["events"]).contains("hello 1.0 (all) was included by ci"));
}
