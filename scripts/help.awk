# The help of `make`: every target with "## sentence." under its "##@ group", every variable with the "##" line above it.
BEGIN                       { print "Usage: make <target> [NAME=\"value\" ...]" }
/^##@ /                     { printf "\n%s\n", substr($0, 5) }
/^[a-z][a-z0-9-]*:.*## /    { split($0, part, ":"); sub(/^.*## /, ""); printf "  %-12s %s\n", part[1], $0 }
/^## /                      { about = substr($0, 4) }
/^[A-Z][A-Z0-9_]* \?=/      { name[++count] = $1; meaning[count] = about; value[count] = $3 }
END {
  print "\nVariables"
  for (i = 1; i <= count; i++)
    printf "  %-16s %s%s\n", name[i], meaning[i], value[i] == "" ? "" : " (" value[i] ")"
}
