# make help: the targets of a Makefile under their headings, in at most 80 columns.
#
#   "##@ heading"                          begins a group
#   "target: ... ## what it does | VAR="   is listed in it: what it does, and its variables on a line of their own

function wrap(head, text,    count, i, words, line) {
  count = split(text, words, " ")
  line = head
  for (i = 1; i <= count; i++) {
    if (length(line " " words[i]) > 80) { print line; line = sprintf("%21s", "") }
    line = line " " words[i]
  }
  print line
}

/^##@ / { printf "\n%s\n", substr($0, 5) }

/^[a-z-]+:.*## / {
  name = $0; sub(/:.*/, "", name)
  text = $0; sub(/.*## /, "", text)
  bar = index(text, " | ")
  wrap(sprintf("  make %-14s", name), bar ? substr(text, 1, bar - 1) : text)
  if (bar) wrap(sprintf("%21s", ""), substr(text, bar + 3))
}

END {
  print "\nRUNNER=auto|local|docker says where a command runs: here or in containers."
  print "SET=\"--section.key value\" gives any other setting."
}
