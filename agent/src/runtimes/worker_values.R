# The part of farrow's R worker that sends outcomes, as the job wants them. `worker.R` reads it into
# its environment.

# ---- What values must be --------------------------------------------------------------------

# What `value` is as one item of `type`, in a list; NULL if it is none. The rules are purrr's: of
# atomic vectors attributes do not matter, and what is lost by a coercion makes it an error. Its
# map_chr() takes numbers too, as C's %f has them.
as_one <- function(value, type) {
  kind <- typeof(value)
  if (!kind %in% c("logical", "integer", "double", "character")) return(NULL)
  attributes(value) <- NULL
  if (length(value) != 1L) return(NULL)
  if (kind == type) return(list(value))
  if (kind == "character") return(NULL)
  switch(type,
    logical = if (is_missing(value) || value %in% 0:1) list(as.logical(value)),
    integer = if (is_missing(value) || kind == "logical" || is_integer(value)) {
      list(as.integer(value))
    },
    double = list(as.double(value)),
    character = list(if (is_missing(value)) NA_character_ else number_text(value)))
}

is_missing <- function(value) is.na(value) && !is.nan(value)

is_integer <- function(value) {
  is.finite(value) && value == trunc(value) && abs(value) <= .Machine$integer.max
}

number_text <- function(value) {
  if (is.double(value) && is.finite(value)) sprintf("%f", value) else as.character(value)
}

types <- c(logical = "lgl", integer = "int", double = "dbl", character = "chr")

describe_value <- function(value) {
  if (is.null(value)) return("NULL")
  what <- if (is.object(value)) paste0("<", one_string(class(value)[1L]), ">") else typeof(value)
  article <- if (grepl("^[aeiou]", what)) "an " else "a "
  if (!is.vector(value) && !is.atomic(value)) return(paste0(article, what))
  length <- length(unclass(value))
  paste0(article, what, " of length ", length, if (length == 1L && is.numeric(value) &&
    !is.object(value)) paste0(" (", format(value, digits = 15L), ")"))
}

# Who is wrong: the element, unless there is none.
about <- function(index) if (job$is_call) "" else sprintf("element %.0f: ", index)

mismatch <- function(index, what, value) {
  failure("TypeMismatch", paste0(
    about(index), "the value must be ", what, ", is ", describe_value(value)))
}

# ---- Values in the job's encoding -----------------------------------------------------------

# The list of a value as the job wants it, or what is wrong with it.
finish <- function(value, index) {
  if (job$variant == "walk") return(list(if (job$encoding == "bytes") raw()))
  if (job$type != "list") {
    one <- as_one(value, job$type)
    if (is.null(one)) return(mismatch(index, paste("one", types[[job$type]]), value))
    value <- one[[1L]]
  }
  if (job$encoding == "bytes") {
    if (!is.raw(value)) return(mismatch(index, "a raw vector, with the encoding bytes", value))
    attributes(value) <- NULL
  }
  list(value)
}

send_finished <- function(values, failed, indexes, kind) {
  has_failed <- vapply(failed, function(problem) problem$position, 0L) + 1L
  type <- job$type
  as_it_must_be <- vapply(values, function(value) {
    typeof(value) == type && is.null(attributes(value)) && length(value) == 1L
  }, NA)
  if (job$variant == "walk" || job$encoding == "bytes" || type == "list") as_it_must_be[] <- FALSE
  for (i in setdiff(which(!as_it_must_be), has_failed)) {
    finished <- finish(values[[i]], indexes[i])
    if (!is.null(names(finished))) {
      failed[[length(failed) + 1L]] <- c(list(position = i - 1L), finished)
      finished <- list(NULL)
    }
    values[i] <- finished
  }
  # All others are NULL or one bare scalar.
  apart <- if (job$encoding == "rds") which(vapply(values, is_compact, NA)) else integer()
  send_outcomes(values, apart, failed, kind)
}

# ---- Frames of outcomes ---------------------------------------------------------------------

# All in one, unless that fails: a value that cannot be serialized, or is too large, must be its own
# element's error. `kind` is that of the last frame.
send_outcomes <- function(values, apart, failed, kind) {
  body <- tryCatch(pack_outcomes(values, apart, failed), error = function(e) NULL)
  if (!is.null(body) && length(body) <= largest_frame) return(send(kind, body))
  positions <- vapply(failed, function(problem) problem$position, 0L)
  for (i in seq_along(values)) {
    known <- match(i - 1L, positions)
    problem <- if (!is.na(known)) failed[[known]]
    kind_here <- if (i == length(values)) kind else "o"
    if (is.null(problem)) {
      body <- tryCatch(pack_outcomes(values[i], 1L, list()), error = function(e) e)
      if (!inherits(body, "error") && length(body) <= largest_frame) {
        send(kind_here, body)
        next
      }
      why <- if (inherits(body, "error")) conditionMessage(body) else "it is larger than 2 GiB"
      problem <- failure("Untranslatable", paste0(
        "the value cannot be serialized: ", one_string(why), "; return something smaller"))
    }
    problem$position <- 0L
    send(kind_here, pack_outcomes(list(NULL), integer(), list(problem)))
  }
}

# Whether a vector is not in memory as others are (ALTREP), as `1:n` is: nor is it serialized so.
is_compact <- function(value) !knows_compact || !is.null(.Internal(altrep_class(value)))
knows_compact <- "altrep_class" %in% builtins(internal = TRUE)

# Values that are more than bare vectors are serialized apart: what the agent cannot read of one
# then spoils no other. Those that it does not read at all are told by their encoding: raw vectors,
# or a serialization of all, which it takes apart by its bytes.
pack_outcomes <- function(values, apart, failed) {
  if (job$encoding == "bytes") return(pack(list(integer(), values, failed, job$encoding)))
  if (length(apart) > 0L) values[apart] <- lapply(values[apart], pack)
  if (job$encoding == "rds") return(pack(list(integer(), pack(values), failed, job$encoding)))
  pack(list(apart - 1L, values, failed))
}
