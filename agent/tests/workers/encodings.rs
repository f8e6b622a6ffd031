//! Encodings other than JSON: of elements, values, arguments and globals.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use agent::rserial;
use agent::runtimes::{self, ConstantValue, Content, Element, Input, WorkerJob};
use protocol::job::Runtime::{self, Python, R};
use protocol::job::{Encoding, Options, ValueType, Variant};
use serde_json::json;

use crate::both::both;
use crate::harness::{CALL, Outcomes, Worker, elements, job, json_values};

fn encoded(encoding: Encoding, function: &str) -> WorkerJob {
    let options = Options { encoding, ..Options::default() };
    WorkerJob { options, ..job(function) }
}

fn own(runtime: Runtime) -> Encoding {
    if runtime == R { Encoding::Rds } else { Encoding::Pickle }
}

/// What an expression is in the language's own encoding.
fn make(worker: &mut Worker, runtime: Runtime, expression: &str) -> Vec<u8> {
    let call = WorkerJob { is_call: true, ..encoded(own(runtime), expression) };
    worker.outcomes(&call, &[CALL]).remove(0).unwrap()
}

fn inputs<'a>(values: &'a [Vec<u8>]) -> Vec<Element<'a>> {
    let element = |(index, value): (u64, &'a Vec<u8>)| Element {
        index,
        input: Input::Encoded(value),
        key: None,
    };
    (0..).zip(values).map(element).collect()
}

fn bytes(outcomes: Outcomes) -> Vec<Vec<u8>> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

#[test]
fn what_json_cannot_say_goes_through_the_languages_own_encoding() {
    both(
        "list(lm(mpg ~ wt, mtcars), c(NaN, Inf, 1e-320), 1i, quote(a + b), sum, NULL)[[x]]",
        "[float('nan'), {1, 2}, 1j, b'a', {(1, 2): 3}, None][x - 1]",
        |runtime, expression| {
            let mut worker = Worker::start(runtime);
            let function = match runtime {
                R => format!("function(x) {expression}"),
                _ => format!("lambda x: {expression}"),
            };
            // The elements of a range are JSON whatever the encoding.
            let texts = ["1", "2", "3", "4", "5", "6"];
            let values =
                bytes(worker.outcomes(&encoded(own(runtime), &function), &elements(&texts)));
            let head: &[u8] = if runtime == R { b"B\n\x03\0\0\0" } else { b"\x80" };
            assert!(values.iter().all(|value| value.starts_with(head)));
            // They are the elements of a next job, and come back as they were.
            let identity = if runtime == R { "function(x) x" } else { "lambda x: x" };
            let job = encoded(own(runtime), identity);
            assert_eq!(bytes(worker.outcomes(&job, &inputs(&values)))[1..], values[1..]);
        },
    );
}

#[test]
fn bytes_go_through_as_they_are() {
    let all: Vec<u8> = (0..=255).collect();
    let values = [Vec::new(), all, vec![0; 3]];
    both("function(x) rev(x)", "lambda x: x[::-1]", |runtime, function| {
        let job = encoded(Encoding::Bytes, function);
        let outcomes = Worker::start(runtime).outcomes(&job, &inputs(&values));
        let reversed = values.clone().map(|value| value.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(bytes(outcomes), reversed);
    });
}

#[test]
fn what_is_not_bytes_is_named() {
    both("function(x) 'text'", "lambda x: 'text'", |runtime, function| {
        let outcomes = Worker::start(runtime)
            .outcomes(&encoded(Encoding::Bytes, function), &inputs(&[vec![], vec![1]]));
        let error = outcomes[1].as_ref().unwrap_err();
        assert_eq!(error.kind, "TypeMismatch");
        let expected = if runtime == R {
            "element 1: the value must be a raw vector, with the encoding bytes, is a character of length 1"
        } else {
            "element 1: the value must be bytes, with the encoding bytes, is a str"
        };
        assert_eq!(error.message, expected);
    });
}

#[test]
fn one_that_cannot_be_read_or_written_spoils_no_other() {
    let function = "import threading\nlambda x: threading.Lock() if x == 2 else x";
    both("function(x) x", function, |runtime, function| {
        let mut worker = Worker::start(runtime);
        let [one, two] = ["1", "2"].map(|text| make(&mut worker, runtime, text));
        let broken = vec![one.clone(), b"nonsense".to_vec(), two, one[..one.len() - 1].to_vec()];
        let job = encoded(own(runtime), function);
        let outcomes = worker.outcomes(&job, &inputs(&broken));
        assert_eq!(outcomes[0].as_ref().unwrap(), &one);
        for position in [1, 3] {
            let error = outcomes[position].as_ref().unwrap_err();
            assert_eq!((error.kind.as_str(), error.fatal), ("Untranslatable", false));
            assert!(error.message.starts_with("the element "), "{}", error.message);
            assert_eq!(error.traceback, Vec::<String>::new());
        }
        if runtime == Python {
            let error = outcomes[2].as_ref().unwrap_err();
            assert!(error.message.contains("cannot be written as pickle"), "{}", error.message);
        }
    });
}

#[test]
fn arguments_and_globals_may_be_in_any_encoding() {
    let rows = [
        (
            R,
            "local({ m <- lm(mpg ~ wt, mtcars); m })",
            "function(x, arg, raw, json) list(class(arg), class(global), as.integer(raw), as.integer(bytes), json, is.null(nothing))",
            json!(["lm", "lm", [1, 2], 3, [1, 2], true]),
        ),
        (
            Python,
            "{(1, 2): {3}}",
            "def f(x, arg, raw, json):\n    return [list(arg[1, 2]), str(bglobal), list(raw), list(bytes_), json, nothing is None]",
            json!([[3], "{(1, 2): {3}}", [1, 2], [3], [1, 2], true]),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let in_both = rows.iter().flat_map(|row| [(row, false), (row, true)]);
    for ((runtime, expression, function, expected), in_files) in in_both {
        let runtime = *runtime;
        let mut worker = Worker::start(runtime);
        let value = make(&mut worker, runtime, expression);
        let nothing = make(&mut worker, runtime, if runtime == R { "NULL" } else { "None" });
        let constant = |encoding, bytes: &[u8]| {
            let content = match in_files && runtimes::reads_files(runtime, encoding) {
                true => in_file(folder.path(), bytes),
                false => bytes.to_vec().into(),
            };
            ConstantValue { encoding, content }
        };
        let names = if runtime == R { ["global", "bytes"] } else { ["bglobal", "bytes_"] };
        let args = BTreeMap::from([
            ("arg".to_owned(), constant(own(runtime), &value)),
            ("json".to_owned(), constant(Encoding::Json, b"[1, 2]")),
            ("raw".to_owned(), constant(Encoding::Bytes, &[1, 2])),
        ]);
        let globals = BTreeMap::from([
            (names[0].to_owned(), constant(own(runtime), &value)),
            (names[1].to_owned(), constant(Encoding::Bytes, &[3])),
            ("nothing".to_owned(), constant(own(runtime), &nothing)),
        ]);
        let job = WorkerJob { args, globals, ..job(function) };
        let values = json_values(worker.outcomes(&job, &elements(&["0"])));
        assert_eq!(values, std::slice::from_ref(expected), "in files: {in_files}");
    }
}

/// These bytes in a file of the folder.
fn in_file(folder: &Path, bytes: &[u8]) -> Content {
    let (mut file, path) = tempfile::NamedTempFile::new_in(folder).unwrap().keep().unwrap();
    file.write_all(bytes).unwrap();
    Content::File { path: path.to_str().unwrap().to_owned(), size: bytes.len() as u64 }
}

#[test]
fn a_constant_that_cannot_be_read_fails_the_job_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Content::File { path: "/no/such".to_owned(), size: 1 };
    both("function(x) x", "lambda x: x", |runtime, function| {
        let nonsense = b"nonsense".as_slice();
        for (encoding, content) in [
            (own(runtime), nonsense.into()),
            (own(runtime), in_file(folder.path(), nonsense)),
            (own(runtime), missing.clone()),
            (Encoding::Bytes, missing.clone()),
        ] {
            let value = ConstantValue { encoding, content };
            let globals = BTreeMap::from([("model".to_owned(), value)]);
            let error = Worker::start(runtime).refusal(&WorkerJob { globals, ..job(function) });
            assert_eq!((error.kind.as_str(), error.fatal), ("Untranslatable", true));
            assert!(error.message.starts_with("`globals.model` "), "{}", error.message);
        }
    });
}

#[test]
fn variants_take_encoded_elements() {
    let rows = [
        (R, Variant::Pmap, "list(y = 1, x = 5)", "function(x, y) x - y", "4"),
        (R, Variant::Pmap, "data.frame(x = 5, y = 1)", "function(x, y) x - y", "4"),
        (R, Variant::Walk, "1", "function(x) 2", "NULL"),
        (Python, Variant::Pmap, "{'y': 1, 'x': 5}", "lambda x, y: x - y", "4"),
        (Python, Variant::Pmap, "(5, 1)", "lambda x, y: x - y", "4"),
        (Python, Variant::Walk, "1", "lambda x: 2", "None"),
    ];
    let mut workers = [R, Python].map(Worker::start);
    for (runtime, variant, element, function, expected) in rows {
        let worker = &mut workers[usize::from(runtime == Python)];
        let element = make(worker, runtime, element);
        let expected = make(worker, runtime, expected);
        let options = Options { variant, encoding: own(runtime), ..Options::default() };
        let job = WorkerJob { options, ..job(function) };
        let values = bytes(worker.outcomes(&job, &inputs(&[element])));
        assert_eq!(values, [expected], "{function}");
    }
    both("function(x) x", "lambda x: x", |runtime, function| {
        let options =
            Options { variant: Variant::Walk, encoding: Encoding::Bytes, ..Options::default() };
        let job = WorkerJob { options, ..job(function) };
        assert_eq!(Worker::start(runtime).outcomes(&job, &inputs(&[vec![1]])), [Ok(Vec::new())]);
    });
}

#[test]
fn objects_of_classes_that_the_text_defines_are_known_to_the_next_job() {
    let class = "class Point:\n    def __init__(self, x):\n        self.x = x\n\n";
    let mut worker = Worker::start(Python);
    let made = encoded(Encoding::Pickle, &format!("{class}lambda x: Point(x)"));
    let points = bytes(worker.outcomes(&made, &elements(&["3", "4"])));
    let options = Options { encoding: Encoding::Pickle, ..Options::default() };
    let read = WorkerJob { options, ..job(&format!("{class}lambda p: str(p.x)")) };
    let values = bytes(worker.outcomes(&read, &inputs(&points)));
    let expected = ["'3'", "'4'"].map(|text| make(&mut worker, Python, text));
    assert_eq!(values, expected);
}

#[test]
fn files_of_save_rds_are_elements_and_globals() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let [packed, plain] = ["packed.rds", "plain.rds"].map(at);
    let mut worker = Worker::start(R);
    worker.prepare(&job(&format!(
        "function(x) {{ saveRDS(mtcars, '{}'); saveRDS(mtcars, '{}', compress = FALSE)
           for (how in c('bzip2', 'xz')) saveRDS(mtcars, file.path('{}', how), compress = how); 0L }}",
        packed.display(),
        plain.display(),
        folder.path().display()
    )));
    worker.value("0");
    let files = [packed, plain, at("bzip2"), at("xz")].map(|path| std::fs::read(path).unwrap());
    assert_eq!(files[0][..2], [0x1f, 0x8b]);
    let value = ConstantValue { encoding: Encoding::Rds, content: files[0].clone().into() };
    let globals = BTreeMap::from([("cars".to_owned(), value)]);
    let same = "function(x) if (identical(x, mtcars) && identical(cars, mtcars)) x";
    let job = WorkerJob { globals, ..encoded(Encoding::Rds, same) };
    let expected = make(&mut worker, R, "mtcars");
    let values = bytes(worker.outcomes(&job, &inputs(&files)));
    assert_eq!(values, [(); 4].map(|()| expected.clone()));
}

/// `kinds`, values of every kind, and some that chance has made of vectors, lists and attributes.
const KINDS: &str = r#"
latin <- iconv("\u00e4", "UTF-8", "latin1")
bytes <- "\xff"
Encoding(bytes) <- "bytes"
texts <- c("a", NA, "", "\u00e4", latin, bytes)
fixed <- list(
  NULL, TRUE, NA, 1L, 2.5, NaN, -Inf, 1i, as.raw(0:255), raw(), serialize(1, NULL), texts, character(),
  1:10, 1, 10:1, as.numeric(1:100), as.character(1:3), as.character(7), numeric(1e5),
  c(a = 1), list(), list(NULL), list(a = 1:3, b = list("x", as.raw(1))), mtcars, iris$Species, Sys.Date(),
  as.POSIXct("2026-08-01", tz = "UTC"), matrix(1:6, 2), structure(list(), class = "odd"),
  structure(1, names = "\u00e4", "a b" = TRUE), setNames(list(1, 2), c("x", NA)), asS4(1), asS4(list(1)),
  quote(a), quote(f(x, y = 2)), y ~ x + z, function(x, ...) x + 1, sum, expression(a, b + 1),
  pairlist(a = 1, 2), globalenv(), baseenv(), asNamespace("stats"), list(quote(a), quote(a)),
  structure(2, note = quote(a), again = quote(a)), lm(mpg ~ wt, mtcars),
  Reduce(function(x, i) list(x), 1:200, 1), Reduce(function(x, i) list(x), 1:600, 1))
many <- as.list(1:150)
names(many) <- paste0("n", 1:150)
fixed[[length(fixed) + 1L]] <- do.call(structure, c(list(1), many))

vectors <- list(c(TRUE, FALSE, NA), c(1L, NA), c(1.5, NA, NaN, Inf), 2i, as.raw(1:9), texts)
random <- function(depth) {
  if (depth > 0 && runif(1) < 0.5) {
    value <- lapply(seq_len(sample(0:3, 1)), function(i) random(depth - 1))
  } else {
    value <- sample(sample(vectors, 1)[[1]], sample(0:4, 1), replace = TRUE)
  }
  if (runif(1) < 0.3) names(value) <- sample(texts[1:4], length(value), replace = TRUE)
  if (runif(1) < 0.2) attr(value, sample(c("note", "comment", "levels"), 1)) <- "n"
  if (runif(1) < 0.2) class(value) <- c("odd", "one")
  value
}
set.seed(1)
kinds <- c(fixed, replicate(400L - length(fixed), random(3), simplify = FALSE))
i <- 0L
"#;

fn with_kinds(encoding: Encoding, function: &str) -> WorkerJob {
    WorkerJob { setup: KINDS.into(), ..encoded(encoding, function) }
}

/// The bytes that an expression makes of each of `kinds`, `kinds[[i]]`.
fn write_kinds(worker: &mut Worker, expression: &str) -> Vec<Vec<u8>> {
    let texts: Vec<_> = (1..=400).map(|i| i.to_string()).collect();
    let indexes: Vec<_> = texts.iter().map(String::as_str).collect();
    let job = with_kinds(Encoding::Bytes, &format!("function(i) {expression}"));
    bytes(worker.outcomes(&job, &elements(&indexes)))
}

#[test]
fn r_values_go_through_a_frame_as_each_would_by_itself() {
    let texts: Vec<_> = (1..=400).map(|i| i.to_string()).collect();
    let indexes: Vec<_> = texts.iter().map(String::as_str).collect();
    let with_kinds =
        |encoding, function: &str| WorkerJob { setup: KINDS.into(), ..encoded(encoding, function) };
    let mut worker = Worker::start(R);
    let mut written = |form: &str| {
        let job = with_kinds(Encoding::Bytes, &format!("function(i) {form}"));
        bytes(worker.outcomes(&job, &elements(&indexes)))
    };
    let alone = written("serialize(kinds[[i]], NULL, xdr = FALSE)");
    let forms = [
        alone.clone(),
        written("serialize(kinds[[i]], NULL)"),
        written("serialize(kinds[[i]], NULL, version = 2)"),
        written("serialize(kinds[[i]], NULL, xdr = FALSE, version = 2)"),
        written("serialize(kinds[[i]], NULL, ascii = TRUE)"),
        written("{ f <- tempfile(); saveRDS(kinds[[i]], f); readBin(f, 'raw', file.size(f)) }"),
    ];
    let same = "function(x) {
      i <<- i + 1L
      # Text does not keep all bits of doubles.
      from_text <- function() unserialize(serialize(kinds[[i]], NULL, ascii = TRUE))
      if (!identical(x, kinds[[i]]) && !identical(x, from_text())) stop('this is another')
      kinds[[i]]
    }";
    for (form, elements) in forms.iter().enumerate() {
        let values = worker.outcomes(&with_kinds(Encoding::Rds, same), &inputs(elements));
        for ((value, alone), i) in values.into_iter().zip(&alone).zip(1..) {
            assert!(
                value.as_ref() == Ok(alone),
                "kind {i} of form {form}: {value:?}, not {alone:?}"
            );
        }
    }
}

#[test]
fn changed_bytes_that_are_still_joined_cost_no_frame() {
    let mut worker = Worker::start(R);
    let alone = write_kinds(&mut worker, "serialize(kinds[[i]], NULL)");
    let mut chance = 1_u64;
    let mut below = |bound: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(chance >> 33).unwrap() % bound
    };
    let mut changed = Vec::new();
    for mut bytes in alone.iter().cycle().take(20_000).cloned() {
        // Most bytes of a long one are its numbers.
        let at = below(bytes.len().min(200));
        bytes[at] ^= 1 << below(8);
        if rserial::splice(&mut rserial::Writer::new(), &bytes) {
            changed.push(bytes);
        }
    }
    assert!(changed.len() > 2000, "{} are joined", changed.len());
    let job = encoded(Encoding::Rds, "function(x) { if (runif(1) < 0.01) gc(); 1L }");
    let expected = make(&mut worker, R, "1L");
    for frame in changed.chunks(500) {
        let values = bytes(worker.outcomes(&job, &inputs(frame)));
        assert!(values.iter().all(|value| *value == expected));
    }
}

#[test]
fn environments_are_shared_within_an_element_and_a_value_alone() {
    let mut worker = Worker::start(R);
    let setup = "e <- new.env(); seen <- NULL".to_owned();
    let shared = WorkerJob { setup: setup.clone(), ..encoded(Encoding::Rds, "~ list(e, e)") };
    let values = bytes(worker.outcomes(&shared, &elements(&["1", "2"])));
    let function = "function(x) {
      known <- c(identical(x[[1]], x[[2]]), identical(x[[1]], seen))
      seen <<- x[[1]]
      known
    }";
    let job = WorkerJob { setup, ..encoded(Encoding::Rds, function) };
    let expected = make(&mut worker, R, "c(TRUE, FALSE)");
    assert_eq!(bytes(worker.outcomes(&job, &inputs(&values))), [expected.clone(), expected]);
}

#[test]
fn what_r_keeps_in_another_form_than_memorys_is_serialized_in_that() {
    let mut worker = Worker::start(R);
    let makers =
        ["1:10", "sort(c(3, 1, 2))", "as.character(1:3)", "as.raw(1:3)", "1i", "7", "NULL"];
    let function = format!("function(x) switch(x, {})", makers.join(", "));
    let values = worker.outcomes(
        &encoded(Encoding::Rds, &function),
        &elements(&["1", "2", "3", "4", "5", "6", "7"]),
    );
    assert_eq!(bytes(values), makers.map(|maker| make(&mut worker, R, maker)));
}

#[test]
fn r_values_of_a_type_are_serialized_as_such() {
    let mut worker = Worker::start(R);
    let options =
        Options { encoding: Encoding::Rds, value_type: ValueType::Chr, ..Options::default() };
    let job = WorkerJob { options, ..job("function(x) if (x == 2) NULL else as.character(x)") };
    let outcomes = worker.outcomes(&job, &elements(&["1", "2", "3"]));
    assert_eq!(outcomes[1].as_ref().unwrap_err().kind, "TypeMismatch");
    for (position, text) in [(0, "as.character(1L)"), (2, "as.character(3L)")] {
        assert_eq!(outcomes[position].as_ref(), Ok(&make(&mut worker, R, text)));
    }
}
