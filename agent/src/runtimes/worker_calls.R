# The part of farrow's R worker that calls the function of a job. `worker.R` reads it into its
# environment.

# Formulas mean what they mean to purrr.
as_callable <- function(value) {
  if (is.character(value) && length(value) == 1L) {
    return(get0(value, globalenv(), mode = "function"))
  }
  if (!inherits(value, "formula") || length(value) != 2L) return(value)
  fn <- function(..., .x = ..1, .y = ..2, . = ..1) NULL
  body(fn) <- value[[2L]]
  environment(fn) <- environment(value)
  fn
}

# `f(element, a = args[["a"]])`, so that errors show that and not the values. forceAndCall() is
# put in as a value, because user code may mask its name; it makes a closure that keeps `element`
# keep this one.
element_call <- function(arguments) {
  names <- names(job$args)
  constants <- lapply(names, function(name) call("[[", quote(args), name))
  names(constants) <- names
  as.call(c(list(forceAndCall, length(arguments), quote(f)), arguments, constants))
}

# A function that makes this call where `frame` is in sight: of eval() by .Internal packages that look at all calls
# (rlang, whenever it signals an error) would find one that is NULL. What code writes to its parent.frame() is gone with it.
caller <- function(call, frame) as.function(list(call), frame)

# base::eval() takes three times as long, most of it for arguments that are not given.
evaluate <- function(code, frame) .Internal(eval(code, frame, NULL))

# What runs an element that takes more than one call, the same for all: a function without
# arguments. `batch` and `position` tell which one it is.
stepper <- function(frame, batch, position) {
  if (job$is_call) return(call_stepper(frame, batch))
  same <- if (job$variant %in% c("map", "walk")) caller(element_call(list(quote(element))), frame)
  function() {
    at <- position()
    notes <- batch()
    seed_element(notes$seeds, at)
    if (is.raw(frame$element)) frame$element <- read_element(frame$element)
    if (job$variant == "imap") frame$key <- notes$keys[[at]]
    invoke <- same
    if (is.null(same)) invoke <- caller(element_call(own_arguments(frame, notes$indexes[at])), frame)
    invoke()
  }
}

# A call: a function is called with the arguments of the job; anything else is the value.
call_stepper <- function(frame, batch) {
  function() {
    seed_element(batch()$seeds, 1L)
    value <- NULL
    for (expression in job$fn) value <- evaluate(expression, globalenv())
    if (!is.function(value)) return(value)
    frame$f <- value
    evaluate(element_call(list()), frame)
  }
}

seed_element <- function(seeds, at) {
  if (length(seeds) == 0L) return()
  assign(".Random.seed", seeds[seq.int(7L * at - 6L, 7L * at)], globalenv())
}

own_arguments <- function(frame, index) {
  if (job$variant == "pmap") return(spread(frame$element, index))
  c(quote(element), lapply(seq_along(frame$key), function(i) call("[[", quote(key), i)))
}

# JSON never becomes a raw vector, so this one is in the job's encoding.
read_element <- function(bytes) {
  if (job$encoding != "rds") return(bytes)
  tryCatch(read_rds(bytes), error = function(e) {
    refuse("Untranslatable", paste0(
      "the element is not what R's serialize() or saveRDS() writes: ", one_string(conditionMessage(e))))
  })
}

# What serialize() wrote, or saveRDS(), which compresses, as readRDS() notices by itself.
read_rds <- function(bytes) {
  if (identical(bytes[1:3], charToRaw("BZh"))) {
    return(unserialize(memDecompress(bytes, "bzip2")))
  }
  if (identical(bytes[1:6], as.raw(c(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)))) {
    return(unserialize(memDecompress(bytes, "xz")))
  }
  if (!identical(bytes[1:2], as.raw(c(0x1f, 0x8b)))) return(unserialize(bytes))
  file <- gzcon(rawConnection(bytes))
  on.exit(close(file))
  unserialize(file)
}

# A constant in a file.
read_file <- function(path, is_serialized) {
  if (is_serialized) readRDS(path) else readBin(path, "raw", file.size(path))
}

# The items of an element as arguments: `element[[1]]`, with their names.
spread <- function(element, index) {
  if (typeof(element) != "list") {
    refuse("TypeMismatch", paste0(
      about(index), "pmap needs an array or an object, whose items are the arguments; this is ",
      describe_value(element)))
  }
  arguments <- lapply(seq_along(unclass(element)), function(i) call("[[", quote(element), i))
  names(arguments) <- names(element)
  arguments
}
