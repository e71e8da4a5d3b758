{% include "tasks/" ~ cookiecutter.task_type ~ ".py" -%}
