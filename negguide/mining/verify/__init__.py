"""Is a pair what it says it is: the four scores of a judge, and questions about the edited phrase."""
