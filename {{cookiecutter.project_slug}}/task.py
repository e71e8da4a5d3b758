{% include "parts/task" -%}
