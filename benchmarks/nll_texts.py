"""Texts whose likelihood is compared: source code and prose, each of 60 to 200 tokens."""

TEXTS = {
    "python function": '''\
def moving_average(values: list[float], window: int) -> list[float]:
    """The mean of each run of `window` neighbouring values."""
    if window < 1:
        raise ValueError("window must be positive")
    total = sum(values[:window])
    result = [total / window]
    for old, new in zip(values, values[window:]):
        total += new - old
        result.append(total / window)
    return result
''',
    "python class": """\
class LRUCache:
    def __init__(self, capacity):
        self.capacity = capacity
        self.items = OrderedDict()

    def get(self, key, default=None):
        if key not in self.items:
            return default
        self.items.move_to_end(key)
        return self.items[key]
""",
    "python with a bug": """\
def binary_search(items, wanted):
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle
        else:
            high = middle
    return low if items[low] == wanted else -1
""",
    "python test": """\
@pytest.mark.parametrize(("text", "expected"), [("", []), ("a", ["a"]), ("a,b", ["a", "b"])])
def test_fields_are_split_at_commas(text, expected):
    assert split_fields(text) == expected


def test_a_quoted_comma_is_part_of_its_field():
    assert split_fields('"a,b",c') == ["a,b", "c"]
""",
    "typescript": """\
export async function fetchUser(id: string, signal?: AbortSignal): Promise<User | null> {
  const response = await fetch(`/api/users/${encodeURIComponent(id)}`, { signal });
  if (response.status === 404) return null;
  if (!response.ok) {
    throw new Error(`the server answered ${response.status}`);
  }
  return (await response.json()) as User;
}
""",
    "javascript": """\
const counts = new Map();
for (const word of text.toLowerCase().match(/[a-z']+/g) ?? []) {
  counts.set(word, (counts.get(word) ?? 0) + 1);
}
const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 10);
console.table(top.map(([word, count]) => ({ word, count })));
""",
    "rust": """\
impl<T: Ord> Heap<T> {
    pub fn push(&mut self, item: T) {
        self.items.push(item);
        let mut child = self.items.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if self.items[child] <= self.items[parent] {
                break;
            }
            self.items.swap(child, parent);
            child = parent;
        }
    }
}
""",
    "go": """\
func (s *Server) handleHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := s.db.PingContext(ctx); err != nil {
		http.Error(w, "database unreachable", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
""",
    "c": """\
/* Reverses a singly linked list in place and returns its new head. */
struct node *reverse(struct node *head)
{
    struct node *previous = NULL;
    while (head != NULL) {
        struct node *next = head->next;
        head->next = previous;
        previous = head;
        head = next;
    }
    return previous;
}
""",
    "java": """\
public record Interval(int start, int end) {
    public Interval {
        if (start > end) {
            throw new IllegalArgumentException("start is after end");
        }
    }

    public boolean overlaps(Interval other) {
        return start <= other.end && other.start <= end;
    }
}
""",
    "sql": """\
SELECT c.name, COUNT(o.id) AS orders, SUM(o.total_cents) / 100.0 AS revenue
FROM customers AS c
LEFT JOIN orders AS o ON o.customer_id = c.id AND o.cancelled_at IS NULL
WHERE c.created_at >= DATE '2024-01-01'
GROUP BY c.id, c.name
HAVING COUNT(o.id) > 3
ORDER BY revenue DESC
LIMIT 20;
""",
    "shell": """\
#!/usr/bin/env bash
set -euo pipefail

backup_dir="${1:?usage: $0 DIRECTORY}"
stamp=$(date +%Y-%m-%d)
for database in $(psql -At -c 'SELECT datname FROM pg_database WHERE NOT datistemplate'); do
    pg_dump --format=custom --file="$backup_dir/$database-$stamp.dump" "$database"
done
find "$backup_dir" -name '*.dump' -mtime +14 -delete
""",
    "html": """\
<form action="/search" method="get" role="search">
  <label for="query">Search the catalogue</label>
  <input id="query" name="q" type="search" autocomplete="off" required>
  <select name="sort">
    <option value="relevance" selected>Most relevant</option>
    <option value="newest">Newest first</option>
  </select>
  <button type="submit">Search</button>
</form>
""",
    "yaml": """\
services:
  web:
    build: .
    ports:
      - "8000:8000"
    environment:
      DATABASE_URL: postgres://app:secret@db:5432/app
    depends_on:
      db:
        condition: service_healthy
  db:
    image: postgres:16
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -U app"]
      interval: 5s
""",
    "traceback": """\
Traceback (most recent call last):
  File "/srv/app/report.py", line 88, in <module>
    main()
  File "/srv/app/report.py", line 71, in main
    rows = [parse(line) for line in file]
  File "/srv/app/report.py", line 23, in parse
    return Row(name, int(count))
ValueError: invalid literal for int() with base 10: 'n/a'
""",
    "diff": """\
diff --git a/cart.py b/cart.py
--- a/cart.py
+++ b/cart.py
@@ -14,7 +14,7 @@ class Cart:
     def total(self) -> int:
         subtotal = sum(item.price * item.count for item in self.items)
-        if subtotal > FREE_SHIPPING_LIMIT:
+        if subtotal >= FREE_SHIPPING_LIMIT:
             return subtotal
         return subtotal + SHIPPING
""",
    "readme": """\
## Installation

The tool needs Python 3.11 or newer. Install it with pip:

    pip install tidy-logs

Then point it at a directory of log files. Every file is read once, in order of its name, and the
lines that belong together are written to one new file for each day. Nothing is deleted unless you
pass `--remove-sources`.
""",
    "prose": """\
The ferry left an hour late, and by then the wind had turned. Most of the passengers stayed below,
where it was warm and smelled of coffee, but the old man stood at the rail with his collar up and
watched the harbour lights go out one after another. He had made this crossing forty times, he told
the boy beside him, and he had never once seen the same sea.
""",
    "explanation": """\
A hash table stores each key at an index computed from the key itself, so that looking it up takes
about the same time however many keys there are. Two keys may be given the same index; the table
then keeps both in a short list, or looks for the next free place. When it gets too full, it is
copied into a larger one, which is slow but rare, and the average cost of an insertion stays small.
""",
    "letter": """\
Dear Ms Okafor,

Thank you for your report of 3 March. We could reproduce the problem: dates before 1970 are shown
one day early for users west of Greenwich. A correction has been tested and will be part of the next
release, which we expect within two weeks. Until then, exporting the table as CSV gives the right
dates.

Kind regards,
""",
    "german": """\
Der Zug nach Leipzig fährt heute von Gleis 9 statt von Gleis 7. Bitte beachten Sie, dass der
Speisewagen wegen einer technischen Störung geschlossen bleibt. Reisende nach Dresden steigen in
Riesa um; der Anschluss wartet dort bis zu zehn Minuten.
""",
    "chinese": """\
这个函数读取一个文本文件，统计每个单词出现的次数，然后按照次数从高到低排序。如果文件不存在，
程序会显示一条错误信息并退出。为了节省内存，文件是一行一行读取的，而不是一次全部读入。
结果写入同一目录下的新文件，文件名以日期开头。
""",
}
