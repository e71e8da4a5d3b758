{% include "parts/test_task" -%}
