//! The description is complete: whoever reads it alone knows what everything is and how it looks.

use std::collections::BTreeSet;

use serde_json::Map;

use super::*;

fn description() -> Value {
    serde_json::from_str(&super::super::openapi_json()).unwrap()
}

/// What is missing, each with where.
struct Walk<'a> {
    api: &'a Value,
    missing: Vec<String>,
}

impl Walk<'_> {
    fn demand(&mut self, is_there: bool, what: &str, at: &str) {
        if !is_there {
            self.missing.push(format!("{at}: no {what}"));
        }
    }

    fn operation(&mut self, at: &str, operation: &Value) {
        self.demand(has_text(operation, "summary"), "summary", at);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let at = format!("{at} ?{}", parameter["name"]);
            self.demand(has_text(parameter, "description"), "description", &at);
            let shown = has_example(parameter) || self.is_shown(&parameter["schema"]);
            self.demand(shown, "example", &at);
        }
        for (media_type, content) in contents(&operation["requestBody"]) {
            let shown = has_example(content) || self.is_shown(&content["schema"]);
            self.demand(shown, "example", &format!("{at} body {media_type}"));
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let at = format!("{at} {status}");
            self.demand(has_text(response, "description"), "description", &at);
            for (media_type, content) in contents(response) {
                let shown = has_example(content) || self.is_shown(&content["schema"]);
                self.demand(shown, "example", &format!("{at} {media_type}"));
            }
        }
    }

    fn schema(&mut self, at: &str, schema: &Value) {
        self.demand(has_text(schema, "description"), "description", at);
        let example = schema["example"].clone();
        for (name, property) in properties(schema) {
            // The tag of a variant has one possible value and says itself.
            if property["enum"].as_array().is_some_and(|values| values.len() == 1) {
                continue;
            }
            let at = format!("{at}.{name}");
            self.demand(self.is_described(property), "description", &at);
            let shown = !example[name].is_null() || self.is_shown(property);
            self.demand(shown, "example", &at);
        }
    }

    /// Whether a schema, or one that it refers to, has a description.
    fn is_described(&self, schema: &Value) -> bool {
        has_text(schema, "description") || self.parts(schema).any(|part| self.is_described(part))
    }

    /// Whether a schema, or one that it refers to, has an example.
    fn is_shown(&self, schema: &Value) -> bool {
        let properties = properties(schema);
        let by_parts = !properties.is_empty() && properties.iter().all(|(_, p)| self.is_shown(p));
        has_example(schema) || by_parts || self.parts(schema).any(|part| self.is_shown(part))
    }

    /// What a schema refers to or is put together of.
    fn parts<'v>(&'v self, schema: &'v Value) -> impl Iterator<Item = &'v Value> {
        let target = schema["$ref"].as_str().and_then(|reference| {
            self.api.pointer(reference.strip_prefix('#').expect("a reference within the document"))
        });
        let parts = ["oneOf", "anyOf", "allOf"].map(|key| schema[key].as_array());
        let items = schema.get("items");
        target.into_iter().chain(parts.into_iter().flatten().flatten()).chain(items)
    }
}

fn has_text(value: &Value, key: &str) -> bool {
    value[key].as_str().is_some_and(|text| !text.trim().is_empty())
}

fn has_example(value: &Value) -> bool {
    value.get("example").or(value.get("examples")).is_some()
}

fn contents(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value["content"].as_object().into_iter().flatten()
}

/// The properties of a schema, also those of its variants.
fn properties(schema: &Value) -> Vec<(&String, &Value)> {
    let variants = ["oneOf", "anyOf", "allOf"].map(|key| schema[key].as_array());
    let own = schema["properties"].as_object().into_iter().flat_map(Map::iter);
    own.chain(variants.into_iter().flatten().flatten().flat_map(properties)).collect()
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let api = description();
    let items = api["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values());
    let mut names = BTreeSet::new();
    for operation in operations {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "two operations are called {name}");
    }
}

#[test]
fn everything_is_described_and_shown_by_example() {
    let api = description();
    let mut walk = Walk { api: &api, missing: Vec::new() };
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            walk.operation(&format!("{method} {path}"), operation);
        }
    }
    for (name, schema) in api["components"]["schemas"].as_object().unwrap() {
        walk.schema(name, schema);
    }
    assert!(walk.missing.is_empty(), "{}", walk.missing.join("\n"));
}

/// What the examples of these types show is what the types can be.
#[test]
fn examples_are_of_the_type_that_they_show() {
    let api = description();
    macro_rules! check {
        ($($name:ident in $module:ident),*) => {$(
            let example = &api["components"]["schemas"][stringify!($name)]["example"];
            let read = serde_json::from_str::<protocol::$module::$name>(&example.to_string());
            assert!(read.is_ok(), "{}: {:?} {example}", stringify!($name), read.err());
        )*};
    }
    check!(
        Register in agent, Registered in agent, LeaseRequest in agent, Lease in agent,
        JobSpec in agent, Report in agent, Reported in agent, Logs in agent, Heartbeat in agent,
        Orders in agent, Release in agent, Input in agent, Constant in agent, SubmitJob in job,
        SubmitJobs in job, Options in job, JobStatus in job, AgentStatus in job, Outcome in job,
        LogLine in job, Accepted in job, ElementError in job, Problem in problem,
        CreateToken in rights, CreatedToken in rights, TokenStatus in rights, AuditEntry in rights
    );
}

/// Slugs stand in the source of `error.rs` in `kind` and wherever a job's problem is made; all of
/// them as string literals.
#[test]
fn every_type_of_problem_is_listed() {
    let source = include_str!("../../error.rs");
    let kinds = source.split_once("fn kind(").unwrap().1.split_once("\n    }\n").unwrap().0;
    let literals = kinds.split('"').skip(1).step_by(2);
    let is_slug = |text: &&str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let used: BTreeSet<&str> = literals.filter(is_slug).collect();
    assert!(used.len() > 5, "the test no longer finds the slugs: {used:?}");
    let listed: BTreeSet<&str> = PROBLEM_TYPES.iter().map(|kind| kind.0).collect();
    let missing: Vec<_> = used.difference(&listed).collect();
    assert!(missing.is_empty(), "not listed in PROBLEM_TYPES: {missing:?}");
    let api = description().to_string();
    for slug in listed {
        assert!(api.contains(&format!("`urn:farrow:{slug}`")), "{slug} is not in the description");
    }
}

#[test]
fn every_operation_tells_of_the_failures_that_any_may_come_to() {
    let api = description();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let told: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
            let needs = |status: &str| {
                assert!(told.iter().any(|told| *told == status), "{method} {path}: no {status}");
            };
            needs("403");
            if !is_public(path) {
                ["401", "500", "503"].iter().for_each(|status| needs(status));
            }
            if matches!(access(&method.to_uppercase(), path), Some(Access::Only(_))) {
                needs("403");
            }
            if path.contains('{') {
                ["400", "422"].iter().for_each(|status| needs(status));
            }
            if operation.get("requestBody").is_some() {
                ["400", "413", "422"].iter().for_each(|status| needs(status));
            }
        }
    }
}
