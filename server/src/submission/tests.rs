//! What is refused, by field, and what is not.

use serde_json::{Value, json};

use super::*;
use crate::blobs::hex_digest;

struct Fixture {
    blobs: Blobs,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { blobs: Blobs::open(folder.path()).unwrap(), _folder: folder }
    }

    async fn prepare(&self, submission: &Value) -> Result<NewJob, ApiError> {
        let body = submission.to_string();
        let (submission, elements) = read_submission(body.as_bytes())?;
        prepare(submission, elements.as_deref(), "ada".to_owned(), &self.blobs, None).await
    }

    /// `FIELD: message` of each fault.
    async fn faults(&self, submission: &Value) -> Vec<String> {
        match self.prepare(submission).await {
            Err(ApiError::Invalid(faults)) => {
                faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }
}

/// A sound map of a runtime, with `members` in their places.
fn map(runtime: &str, members: &Value) -> Value {
    let function = if runtime == "command" { json!(["echo", "{}"]) } else { json!("f") };
    let mut job = json!({"runtime": runtime, "function": function, "elements": [1]});
    for (name, value) in members.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

fn options(runtime: &str, options: &Value) -> Value {
    let mut job = map(runtime, &json!({"options": options}));
    if job["options"]["encoding"].is_string() {
        job["elements"] = json!(["AA=="]);
    }
    job
}

#[tokio::test]
async fn an_array_is_a_value_even_of_texts_that_look_like_digests() {
    let fixture = Fixture::new();
    for value in [json!(["sha256:aaa", "sha256:bbb"]), json!(["sha256:aaa", null])] {
        let job = map("r", &json!({"args": {"d": value}, "globals": {"d": value}}));
        assert_eq!(fixture.faults(&job).await, [""; 0], "{job}");
    }
}

#[tokio::test]
async fn each_runtime_has_its_own_semantics() {
    let fixture = Fixture::new();
    let fine = [
        options("r", &json!({"encoding": "rds", "type": "dbl"})),
        options("r", &json!({"encoding": "bytes"})),
        options("python", &json!({"encoding": "pickle", "variant": "pmap"})),
        options("command", &json!({"encoding": "bytes"})),
        options("command", &json!({"output": "json", "type": "int"})),
        options("command", &json!({"type": "chr", "variant": "imap"})),
        options("r", &json!({"seed": [10407, 1, 2, 3, -4, 5, 6]})),
        options("r", &json!({"seed": -2147483647})),
        options("python", &json!({"seed": 1_i64 << 40, "memory": 1 << 20})),
    ];
    for job in fine {
        assert_eq!(fixture.faults(&job).await, [""; 0], "{job}");
    }
    let refused = [
        (
            options("r", &json!({"encoding": "pickle"})),
            "options.encoding: is pickle, must be json, rds or bytes",
        ),
        (
            options("python", &json!({"encoding": "rds"})),
            "options.encoding: is rds, must be json, pickle",
        ),
        (
            options("command", &json!({"encoding": "rds"})),
            "options.encoding: is rds, must be json or bytes",
        ),
        (
            options("r", &json!({"output": "json"})),
            "options.output: is json, which only runtime command",
        ),
        (options("command", &json!({"output": "json", "encoding": "bytes"})), "options.output"),
        (options("command", &json!({"type": "dbl"})), "options.type: must be list or chr"),
        (options("r", &json!({"type": "chr", "encoding": "bytes"})), "options.type: must be list"),
        (
            options("r", &json!({"variant": "pmap", "encoding": "bytes"})),
            "options.variant: is pmap",
        ),
        (options("r", &json!({"seed": 1_i64 << 31})), "options.seed: is 2147483648"),
        (
            options("python", &json!({"seed": [10407, 1, 2, 3, 4, 5, 6]})),
            "options.seed: is an array, which only",
        ),
        (
            options("r", &json!({"seed": [10403, 1, 2, 3, 4, 5, 6]})),
            "options.seed: is an array that is no",
        ),
        (options("r", &json!({"seed": [10407, 0, 0, 0, 4, 5, 6]})), "options.seed"),
        (options("r", &json!({"seed": [10407, 1, 2, 3, 0, 0, 0]})), "options.seed"),
        (options("r", &json!({"memory": 0})), "options.memory: must be a number of bytes"),
        (
            options("r", &json!({"memory": 512})),
            "options.memory: must be a number of bytes, at least",
        ),
        (map("command", &json!({"function": "echo"})), "function: is a string, must be an array"),
        (map("command", &json!({"function": []})), "function: is empty"),
        (map("python", &json!({"function": ["echo"]})), "function: is an array, must be a string"),
        (map("command", &json!({"packages": ["stats"]})), "packages: must be empty"),
        (
            map("r", &json!({"elements": {"range": [0, 2]}, "options": {"variant": "pmap"}})),
            "options.variant: is a range",
        ),
    ];
    for (job, expected) in refused {
        let faults = fixture.faults(&job).await;
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{job}: {faults:?}");
    }
}

#[tokio::test]
async fn a_call_has_no_elements_and_one_level() {
    let fixture = Fixture::new();
    let call = json!({"runtime": "python", "function": "21 * 2"});
    let job = fixture.prepare(&call).await.unwrap();
    assert!(job.spec.is_call && job.elements.shape.is_call);
    assert_eq!((job.elements.total, job.elements.blocks.len()), (1, 0));
    let mut nested = call.clone();
    nested["plan"] = json!([{"strategy": "cluster"}, {"strategy": "multisession"}]);
    assert!(fixture.faults(&nested).await[0].starts_with("plan: must have one level for a call"));
    for variant in ["pmap", "imap"] {
        let mut indexed = call.clone();
        indexed["options"] = json!({"variant": variant});
        assert!(
            fixture.faults(&indexed).await[0].starts_with("options.variant: must be map or walk")
        );
    }
}

#[tokio::test]
async fn a_seed_that_is_asked_for_is_drawn() {
    let fixture = Fixture::new();
    let seed_of = async |seed: Value| {
        let job = fixture.prepare(&options("r", &json!({"seed": seed}))).await.unwrap();
        assert_eq!(job.options, job.spec.options);
        job.options.seed
    };
    let Some(Seed::Number(first)) = seed_of(json!(true)).await else { panic!("none was drawn") };
    assert!((0..=i64::from(i32::MAX)).contains(&first));
    assert_ne!(seed_of(json!(true)).await, Some(Seed::Number(first)), "the same was drawn twice");
    assert_eq!(seed_of(json!(false)).await, None);
    assert_eq!(seed_of(json!(7)).await, Some(Seed::Number(7)));
}

#[tokio::test]
async fn blobs_that_are_named_must_be_there() {
    let fixture = Fixture::new();
    let there = fixture.blobs.put("[1, 2]\n".into()).await.unwrap();
    let missing = format!("sha256:{}", hex_digest(b"nowhere"));
    let fine = map(
        "r",
        &json!({
            "elements": {"blob": there}, "files": {"blob": there},
            "args": {"x": {"blob": there, "encoding": "rds"}, "y": {"blob": "sha1:no reference"}},
            "globals": {"z": {"blob": there}, "w": {"blob": there, "other": 1}},
        }),
    );
    let job = fixture.prepare(&fine).await.unwrap();
    let is_blob = |constant: &protocol::agent::Constant| {
        matches!(constant, protocol::agent::Constant::Blob { .. })
    };
    assert!(is_blob(&job.spec.args["x"]) && is_blob(&job.spec.globals["z"]));
    assert!(!is_blob(&job.spec.args["y"]) && !is_blob(&job.spec.globals["w"]));
    assert_eq!(job.spec.files.as_deref(), Some(there.as_str()));

    let refused = map(
        "r",
        &json!({
            "files": {"blob": missing},
            "args": {"x": {"blob": "sha256:abc"}, "y": {"blob": there, "encoding": "pickle"}},
            "globals": {"z": {"blob": missing}, "w": {"blob": there, "encoding": "xml"}},
        }),
    );
    let faults = fixture.faults(&refused).await;
    let upload = format!("there is no blob {missing}; upload it by PUT /v1/blobs/{missing}");
    assert_eq!(faults.len(), 5, "{faults:?}");
    assert!(faults[0].starts_with("args.x: \"sha256:abc\" is not a digest"), "{faults:?}");
    assert!(faults[1].starts_with("args.y.encoding: is pickle, must be json, rds"), "{faults:?}");
    assert!(faults[2].starts_with("globals.w.encoding: is not known"), "{faults:?}");
    assert_eq!(faults[3], format!("globals.z: {upload}"));
    assert_eq!(faults[4], format!("files.blob: {upload}"));
    let faults = fixture.faults(&map("r", &json!({"elements": {"blob": missing}}))).await;
    assert_eq!(faults, [format!("elements.blob: {upload}")]);
}

#[tokio::test]
async fn the_faults_of_a_batch_are_named_by_their_place() {
    let fixture = Fixture::new();
    let read = |job: &Value| read_json(job.to_string().as_bytes()).unwrap();
    let sound = map("r", &json!({}));
    let broken = options("r", &json!({"timeout": -1}));
    let refused = prepare_all(vec![read(&sound), read(&broken)], "ada", &fixture.blobs).await;
    let Err(ApiError::Invalid(faults)) = refused else { panic!("{refused:?}") };
    assert_eq!(faults[0].field, "jobs[1].options.timeout");
    let jobs = prepare_all(vec![read(&sound), read(&sound)], "ada", &fixture.blobs).await.unwrap();
    assert!(jobs[0].id < jobs[1].id, "ids ascend in the order of the submissions");
    assert!(prepare_all(Vec::new(), "ada", &fixture.blobs).await.is_err());
}

#[tokio::test]
async fn the_jobs_of_a_batch_cannot_come_after_too_many_others_in_all() {
    let fixture = Fixture::new();
    let after_many = map("r", &json!({"after": vec![JobId::new(); 1000]})).to_string();
    let batch = |n| (0..n).map(|_| read_json(after_many.as_bytes()).unwrap()).collect();
    assert_eq!(prepare_all(batch(100), "ada", &fixture.blobs).await.unwrap().len(), 100);
    let refused = prepare_all(batch(101), "ada", &fixture.blobs).await;
    let Err(ApiError::Invalid(faults)) = refused else { panic!("{refused:?}") };
    assert_eq!(faults.len(), 1);
    assert!(faults[0].field == "jobs" && faults[0].message.contains("101000"), "{faults:?}");
}
