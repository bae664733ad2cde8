//! The API from the command line, and with curl as its page says.

use serde_json::Value;

use crate::support::Desk;

/// The examples of the page, one after the other in one shell.
fn examples() -> Vec<String> {
    let page = include_str!("../../../../docs/api.md");
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_examples_of_the_page_work() {
    let desk = Desk::new();
    let examples = examples();
    assert_eq!(examples.len(), 4, "the way in, and three examples");
    let ca = desk.folder().join("ca/ca.pem").display().to_string();
    let mut script = examples.join("echo\n");
    for (written, meant) in [("https://localhost:8443", desk.url()), ("/srv/volary/ca/ca.pem", ca)] {
        assert_eq!(script.matches(written).count(), 1, "{written}");
        script = script.replace(written, &meant);
    }
    let said = desk.shell(&script);
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(lines[0], "[]", "nothing is wrong");
    let release: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(release["name"], "v1.0");
    let saved = volary_host::read_to_string(&desk.path().join("volary.json")).unwrap();
    let document: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(document, serde_json::from_str::<Value>(&desk.ok(&["api", "openapi"])).unwrap());
}

#[test]
fn the_api_is_listed_and_asked() {
    let desk = Desk::new();
    let listed = desk.json(&["api", "list", "Freeze"]);
    let row = &listed[0];
    assert_eq!((&row["method"], &row["role"]), (&"POST".into(), &"developer".into()), "{listed}");
    let table = desk.ok(&["api", "list", "/device/v1/turn"]);
    assert!(table.contains("DELETE") && table.contains("a device"), "{table}");
    assert_eq!(desk.ok(&["api", "list", "no such thing"]), "nothing of the API is like that\n");

    let me: Value = serde_json::from_str(&desk.ok(&["api", "call", "get", "/api/v1/me"])).unwrap();
    assert_eq!(me["role"], "admin");
    desk.ok(&["api", "call", "POST", "/api/v1/releases", "--data", "{\"name\": \"v1.0\"}"]);
    let file = desk.path().join("body.json");
    volary_host::write_atomic(&file, b"{\"name\": \"v2.0\"}", 0o644).unwrap();
    desk.ok(&["api", "call", "POST", "/api/v1/releases", "--data", &format!("@{}", file.display())]);
    let releases: Value =
        serde_json::from_str(&desk.ok(&["api", "call", "GET", "/api/v1/releases"])).unwrap();
    assert_eq!(releases.as_array().unwrap().len(), 2);

    let (status, said) = desk.fails(&["api", "call", "GET", "/api/v1/builds/99"]);
    assert_eq!(
        (status, said.as_str()),
        (1, "error: there is no build 99\nhelp: see them with: volary build list\n")
    );
    let (_, said) = desk.fails(&["api", "call", "GET", "api/v1/me"]);
    assert!(said.contains("is no path") && said.contains("volary api list"), "{said}");
    let (status, said) = desk.fails(&["api", "call", "FETCH", "/api/v1/me"]);
    assert!(status == 2 && said.contains("GET, POST, PUT and DELETE"), "{said}");
}
