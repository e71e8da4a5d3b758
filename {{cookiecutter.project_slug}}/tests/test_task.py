{% include "tasks/" ~ cookiecutter.task_type ~ "/test_task.py" -%}
