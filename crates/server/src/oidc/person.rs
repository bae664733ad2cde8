//! Who a person is by what the provider says, and what they may do by their groups. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use volary_api::v1::fleet::Role;

/// The longest name that records show.
const NAME: usize = 128;

/// What each role may includes what the later ones may, but that a developer may nothing of an operator.
const RANKS: [Role; 5] = [Role::Admin, Role::ReleaseManager, Role::Developer, Role::Operator, Role::Viewer];

/// The name for records: the mail address if the provider does not doubt it, else the name that the person
/// chose, else the subject. Which person it is tells only the subject, which records have beside it.
pub(crate) fn name_of(claims: &Map<String, Value>) -> String {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let doubted = matches!(claims.get("email_verified"), Some(Value::Bool(false)))
        || text("email_verified") == Some("false");
    let name = text("email").filter(|_| !doubted).or_else(|| text("preferred_username"));
    let name = name.or_else(|| text("sub")).unwrap_or_default().trim();
    name.chars().filter(|c| !c.is_control()).take(NAME).collect()
}

/// The groups in the claim of this name, which may lie within others: `realm_access.roles`. `None` if the
/// provider did not say.
pub(crate) fn groups_in(claims: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    let found = claims.get(name).or_else(|| {
        let mut parts = name.split('.');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    })?;
    match found {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => Some(many.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => None,
    }
}

/// What somebody in these groups may do: the most that one of them gives, else what everybody may.
pub(crate) fn role_of(
    groups: &[String],
    roles: &BTreeMap<String, Role>,
    everybody: Option<Role>,
) -> Option<Role> {
    let given: Vec<Role> = groups.iter().filter_map(|group| roles.get(group).copied()).collect();
    RANKS.into_iter().find(|role| given.contains(role)).or(everybody)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_mail_address_that_is_doubted_is_no_name() {
        let check = |claims: Value, expected: &str| assert_eq!(name_of(&map(claims)), expected);
        check(json!({"sub": "1", "email": "a@b.c", "preferred_username": "alice"}), "a@b.c");
        check(json!({"sub": "1", "email": "a@b.c", "email_verified": false}), "1");
        check(
            json!({"sub": "1", "email": "a@b.c", "email_verified": "false", "preferred_username": "alice"}),
            "alice",
        );
        check(json!({"sub": "1", "preferred_username": " "}), "1");
        check(json!({"sub": "1", "email": "a\n\u{1b}[1m@b.c"}), "a[1m@b.c");
    }

    #[test]
    fn groups_give_the_greatest_role() {
        let roles = BTreeMap::from([
            ("ops".to_owned(), Role::Operator),
            ("dev".to_owned(), Role::Developer),
            ("boss".to_owned(), Role::Admin),
        ]);
        let check = |groups: &[&str], everybody, expected| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            assert_eq!(role_of(&groups, &roles, everybody), expected);
        };
        check(&["ops", "dev"], None, Some(Role::Developer));
        check(&["x", "boss", "ops"], None, Some(Role::Admin));
        check(&["x", "OPS"], None, None);
        check(&[], Some(Role::Viewer), Some(Role::Viewer));
    }

    #[test]
    fn groups_are_found_where_providers_put_them() {
        let check = |claims: Value, name: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|groups| groups.iter().map(|group| (*group).to_owned()).collect());
            assert_eq!(groups_in(&map(claims), name), expected);
        };
        check(json!({"groups": ["a", 1, "b"]}), "groups", Some(&["a", "b"]));
        check(json!({"groups": "a"}), "groups", Some(&["a"]));
        check(json!({"realm_access": {"roles": ["a"]}}), "realm_access.roles", Some(&["a"]));
        check(json!({"https://x.example/groups": ["a"]}), "https://x.example/groups", Some(&["a"]));
        check(json!({"other": 1}), "groups", None);
    }
}
