# What farrow's R worker speaks through: the descriptors of its frames, and a count of what was printed. `worker.R` reads
# it into its environment.

# ---- Frames ---------------------------------------------------------------------------------

self <- Sys.getpid()
input <- output <- counter <- NULL
largest_frame <- .Machine$integer.max
most_copied <- 65536L

# `raw` because a pipe cannot seek, and because nothing may be read ahead of a frame for long.
open_channels <- function() {
  input <<- file("/dev/fd/3", "rb", raw = TRUE)
  output <<- file("/dev/fd/4", "wb", raw = TRUE)
}

# A connection's number is given anew once it is closed, its id never. (To ask for one that is not there and catch
# the error takes three times as long.)
is_ours <- function(connection) {
  number <- as.integer(connection)
  match(number, getAllConnections(), 0L) > 0L &&
    identical(attr(getConnection(number), "conn_id"), attr(connection, "conn_id"))
}

# User code may have called closeAllConnections(); the descriptors themselves stay open. Asked before a
# frame is sent: nothing of the user's, finalizers apart, runs between that and the next frame.
ensure_channels <- function() {
  if (is_ours(input) && is_ours(output)) return()
  for (connection in list(input, output)) if (is_ours(connection)) close(connection)
  open_channels()
}

# Ends the process without running user code (`.Last`, finalizers) once more.
leave <- function() {
  end_if_forked()
  quit(save = "no", status = 0L, runLast = FALSE)
}

# A child that user code forked (parallel:::mcfork) and that returned from it must neither read
# nor write frames, nor remove the temporary folder that it shares with its parent.
end_if_forked <- function() {
  if (Sys.getpid() != self) tools::pskill(Sys.getpid(), 9L)
}

# readBin() and writeBin() compare names of types and byte orders before they do so: of a small frame's time a tenth.
read_raw <- function(size) .Internal(readBin(input, "raw", size, NA_integer_, TRUE, FALSE))
write_raw <- function(bytes) .Internal(writeBin(bytes, output, NA_integer_, FALSE, FALSE))
little_endian <- function(number) {
  .Internal(writeBin(number, raw(), NA_integer_, .Platform$endian != "little", FALSE))
}

receive <- function() {
  end_if_forked()
  header <- read_raw(5L)
  if (length(header) < 5L) leave()
  size <- sum(as.integer(header[1:4]) * c(1, 256, 65536, 16777216))
  body <- read_raw(size)
  if (length(body) < size) leave()
  list(kind = rawToChar(header[5L]), body = body)
}

send <- function(kind, body = raw()) {
  end_if_forked()
  ensure_channels()
  # Compiled code may have left output in C's buffer; R's own output always flushes it.
  cat("")
  head <- c(little_endian(length(body)), charToRaw(kind))
  # What is large is not copied behind what is small.
  if (length(body) > most_copied) {
    write_raw(head)
    write_raw(body)
  } else {
    write_raw(c(head, body))
  }
  flush(output)
}

# After a `p` or a `w`: the agent has read what was printed, and says whether it wants the other elements back.
may_go_on <- function() {
  kind <- receive()$kind
  if (kind != "G" && kind != "S") leave()
  kind == "G"
}

pack <- function(value) serialize(value, NULL, xdr = FALSE, version = 3L)

# ---- What was printed -----------------------------------------------------------------------

# Output is split into a connection that keeps nothing but counts the bytes: asking it after each
# element whether something was printed takes a tenth of a microsecond. gzfile() is the only one
# of base R's connections that counts without a file to seek in.
count_output <- function() {
  if (is.null(counter) || !is_ours(counter)) counter <<- gzfile("/dev/null", "w", compression = 1)
  sink(counter, split = TRUE)
}

# `seek()` takes ten times as long because it dispatches and matches its arguments.
printed <- function() .Internal(seek(counter, NA_real_, 1L, 2L))

# sink.number() matches its argument, which takes as long as a small element.
sinks <- function() .Internal(sink.number(TRUE))
messages_go_to <- function() .Internal(sink.number(FALSE))

# Takes away the sinks that user code left, and puts ours back where it took it.
restore_sinks <- function() {
  while (sinks() > 1L) sink()
  if (sinks() == 0L) count_output()
}
