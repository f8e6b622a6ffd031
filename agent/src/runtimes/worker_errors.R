# The part of farrow's R worker that tells errors and conditions. `worker.R` reads it into its
# environment.

short <- function(call, width = 120L) {
  text <- paste(deparse(call, width.cutoff = 500L, nlines = 1L)[1L], collapse = "")
  if (nchar(text) > width) text <- paste0(substr(text, 1L, width - 3L), "...")
  text
}

one_string <- function(text) {
  text <- enc2utf8(paste(as.character(text), collapse = "\n"))
  if (validUTF8(text)) text else iconv(text, "latin1", "UTF-8")
}

# The calls between ours and the handler's, at most fifty of them.
user_calls <- function(calls, ours) {
  calls <- calls[-seq_len(min(ours, length(calls)))]
  ends <- vapply(calls, function(call) {
    is.function(call[[1L]]) || identical(call[[1L]], quote(.handleSimpleError))
  }, NA)
  if (any(ends)) calls <- calls[seq_len(which(ends)[1L] - 1L)]
  text <- vapply(head_and_tail(calls), function(call) one_string(short(call)), "")
  if (length(calls) > 50L) text[20L] <- paste0("... ", length(calls) - 49L, " calls ...")
  unname(text)
}

head_and_tail <- function(calls) {
  n <- length(calls)
  if (n > 50L) calls[c(1:20, (n - 29L):n)] else calls
}

failure <- function(kind, message, call = NULL, traceback = character()) {
  list(kind = kind, message = message, call = call, traceback = traceback)
}

# The condition's own methods are user code too, and may fail.
describe <- function(condition, calls = NULL, ours = 0L) {
  call <- tryCatch(conditionCall(condition), error = function(e) NULL)
  failure(
    one_string(class(condition)[1L]),
    tryCatch(one_string(conditionMessage(condition)),
             error = function(e) "its conditionMessage() failed"),
    if (!is.null(call)) tryCatch(one_string(short(call)), error = function(e) NULL),
    tryCatch(user_calls(calls, ours), error = function(e) character())
  )
}

# What this script itself has to say of an element.
refuse <- function(kind, message) {
  stop(structure(class = c(kind, "farrow_refusal", "error", "condition"),
                 list(message = message, call = NULL)))
}

unwrap <- function(restart, condition) {
  for (known in computeRestarts(condition)) {
    if (identical(known$name, restart)) invokeRestart(known)
  }
}

# How many calls there are. `sys.calls()` itself would not count those between an argument and the
# function that it was given to.
depth <- function() sys.nframe() - 1L

# Evaluates `code`, a call of eval() if it runs what is the user's; gives NULL, or what went wrong.
attempt <- function(code) {
  found <- NULL
  ours <- 0L
  tryCatch(
    withCallingHandlers({
      ours <- depth() + 2L
      code
      NULL
    }, error = function(e) found <<- describe(e, sys.calls(), ours)),
    error = function(e) if (is.null(found)) describe(e) else found
  )
}

send_condition <- function(position, kind, condition) {
  class <- class(condition)[1L]
  # Of messages nobody asks for the class, and by this word they are known not to be warnings.
  if (kind == "message" || class == "simpleWarning") class <- kind
  message <- tryCatch(one_string(conditionMessage(condition)), error = function(e) "")
  call <- if (kind == "warning") tryCatch(conditionCall(condition), error = function(e) NULL)
  if (!is.null(call)) call <- one_string(short(call))
  send("c", pack(list(position - 1L, one_string(class), sub("\n$", "", message), call)))
}
