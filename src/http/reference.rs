//! REST's document as a page for people: the same operations, in Markdown. What it says is read off the document alone.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{openapi::document, problem::FAILURES};

/// What the page begins with.
const HEAD: &str = "# REST: the reference\n\nMade by `ttdust openapi --format markdown` from the document that the server shows at \
                    `/openapi.json`; [README.md](README.md) is the guide.\n";

/// In the order in which they are shown.
const METHODS: [&str; 5] = ["post", "get", "put", "patch", "delete"];

/// The page. Writing to a String cannot fail, so what it returns is let go of.
#[must_use]
pub fn markdown() -> String {
    let document = document();
    let mut page = String::from(HEAD);
    let about = document["info"]["description"].as_str().unwrap_or("");
    let _ = writeln!(page, "\n{about}");
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = tag["name"].as_str().unwrap_or("");
        let _ = write!(page, "\n## {name}\n\n{}\n", line(&tag["description"]));
        for (path, methods) in members(&document["paths"]) {
            for method in METHODS {
                let operation = &methods[method];
                if operation["tags"][0] == name {
                    put_operation(&mut page, &method.to_uppercase(), path, operation);
                }
            }
        }
    }
    put_problems(&mut page);
    put_objects(&mut page, &document);
    page
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A text on one line, as a cell of a table takes it.
fn line(text: &Value) -> String {
    text.as_str().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn put_operation(page: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = write!(page, "\n### `{method} {path}`\n\n{}.", line(&operation["summary"]));
    if operation["security"].as_array().is_some_and(Vec::is_empty) {
        page.push_str(" No credential is needed.");
    }
    page.push('\n');
    let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
    // The request's id is a parameter of every operation, and stands in the document by reference.
    let own: Vec<_> = parameters.into_iter().filter(|parameter| parameter["$ref"].is_null()).collect();
    if !own.is_empty() {
        page.push_str("\n| parameter | in | type | meaning |\n|---|---|---|---|\n");
    }
    for parameter in own {
        let required = if parameter["required"] == true { "; required" } else { "" };
        let (name, place) = (line(&parameter["name"]), line(&parameter["in"]));
        let (kind, about) = (shape(&parameter["schema"]), line(&parameter["description"]));
        let _ = writeln!(page, "| `{name}` | {place}{required} | {kind} | {about} |");
    }
    let body = contents(&operation["requestBody"]["content"]);
    if !body.is_empty() {
        let _ = write!(page, "\nTakes {body}.\n");
    }
    let mut answers = Vec::new();
    for (status, answer) in members(&operation["responses"]) {
        let of = contents(&answer["content"]);
        answers.push(match of.as_str() {
            _ if !answer["$ref"].is_null() => status.clone(),
            "" => format!("**{status}**"),
            of => format!("**{status}** {of}"),
        });
    }
    let _ = write!(page, "\nAnswers {}.\n", answers.join(", "));
}

/// What bodies hold, by media type.
fn contents(content: &Value) -> String {
    let of = |(media, body): (&String, &Value)| match shape(&body["schema"]).as_str() {
        "" => format!("`{media}`"),
        shape if media == "application/json" => shape.to_owned(),
        shape => format!("{shape} as `{media}`"),
    };
    members(content).map(of).collect::<Vec<_>>().join(", or ")
}

/// A schema in a few words. Objects that have a name are linked to.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[several].as_array() {
            let choices: Vec<_> = choices.iter().map(shape).filter(|choice| !choice.is_empty()).collect();
            return choices.join(" or ");
        }
    }
    if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
        return shape(only);
    }
    if !schema["const"].is_null() {
        return format!("`{}`", schema["const"]);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(", ");
    }
    let kinds: Vec<_> = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let named = |kind: &&str| match *kind {
        "array" => format!("list of {}", Some(shape(&schema["items"])).filter(|s| !s.is_empty()).unwrap_or_default()),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", shape(&schema["additionalProperties"]))
        }
        kind => kind.to_owned(),
    };
    let mut text = kinds.iter().map(named).collect::<Vec<_>>().join(" or ");
    let bounds = [("minimum", "at least"), ("maximum", "at most"), ("maxLength", "up to"), ("default", "default")];
    for (bound, words) in bounds {
        if !schema[bound].is_null() && !schema[bound].is_object() && !schema[bound].is_array() {
            let _ = write!(text, ", {words} {}", plain(&schema[bound]));
        }
    }
    text.replace('|', "\\|")
}

/// A value without the quotes of JSON's texts.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn put_problems(page: &mut String) {
    page.push_str("\n## Problems\n\n| status | `code` | means | headers |\n|---|---|---|---|\n");
    for failure in FAILURES {
        let codes: Vec<_> = failure.codes.iter().map(|code| format!("`{code}`")).collect();
        let (codes, headers) = (codes.join(", "), failure.headers.join(", "));
        let _ = writeln!(page, "| {} | {codes} | {} | {headers} |", failure.status, failure.about);
    }
}

fn put_objects(page: &mut String, document: &Value) {
    page.push_str("\n## Objects\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let _ = write!(page, "\n### {name}\n");
        let about = line(&schema["description"]);
        if !about.is_empty() {
            let _ = write!(page, "\n{about}\n");
        }
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        if properties.is_empty() {
            let shape = shape(schema);
            if !shape.is_empty() {
                let _ = write!(page, "\n{shape}\n");
            }
            continue;
        }
        page.push_str("\n| member | type | meaning |\n|---|---|---|\n");
        for (member, of) in properties {
            let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == member));
            let required = if required { "" } else { "; may be missing" };
            let _ = writeln!(page, "| `{member}` | {}{required} | {} |", shape(of), line(&of["description"]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_operation_object_and_problem() {
        let (page, document) = (markdown(), document());
        for (path, methods) in members(&document["paths"]) {
            for (method, _) in members(methods) {
                let heading = format!("\n### `{} {path}`\n", method.to_uppercase());
                assert_eq!(page.matches(&heading).count(), 1, "{heading}");
            }
        }
        for (name, _) in members(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("\n### {name}\n")), "{name}");
        }
        for link in page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(page.to_lowercase().contains(&format!("\n### {link}\n")), "{link} leads nowhere");
        }
        assert!(FAILURES.iter().all(|failure| page.contains(&format!("\n| {} | ", failure.status))));
    }
}
