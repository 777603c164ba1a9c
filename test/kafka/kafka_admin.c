/*-------------------------------------------------------------------------
 *
 * kafka_admin.c
 *	  What tests do to a Kafka: topics, partitions, retention, rights, records.
 *
 *	  kafka_admin BOOTSTRAP create TOPIC PARTITIONS [NAME=VALUE...]
 *	  kafka_admin BOOTSTRAP config TOPIC NAME=VALUE...		(others go to default)
 *	  kafka_admin BOOTSTRAP partitions TOPIC COUNT			grow to COUNT
 *	  kafka_admin BOOTSTRAP truncate TOPIC PARTITION OFFSET	delete what is before
 *	  kafka_admin BOOTSTRAP delete TOPIC
 *	  kafka_admin BOOTSTRAP allow USER OPERATION TOPIC		add an ACL: Read, Write,
 *	  kafka_admin BOOTSTRAP revoke USER OPERATION TOPIC		Describe, All
 *	  kafka_admin BOOTSTRAP forget GROUP					delete its offsets
 *	  kafka_admin BOOTSTRAP offsets GROUP					print them, a line for each:
 *															topic, partition, metadata
 *	  kafka_admin BOOTSTRAP write TOPIC						records from the input
 *
 * A record to write is a line of fields with tabs between them: partition, key,
 * value, and name and value of each header.  All but the partition are bytes in
 * hexadecimal, or "-" for null.
 *
 * Waits until the brokers have done it.  On failure prints the reason, and the exit
 * status is 1.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 30000

static rd_kafka_t *rk;
static rd_kafka_queue_t *queue;
static rd_kafka_AdminOptions_t *options;

static void die(const char *what, const char *why) __attribute__((noreturn));

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "kafka_admin: %s: %s\n", what, why);
	exit(1);
}

static void
usage(void)
{
	die("usage", "kafka_admin BOOTSTRAP create|config|partitions|truncate|delete|allow|revoke|forget|offsets|write ...");
}

static void
delivered(rd_kafka_t *client, const rd_kafka_message_t *msg, void *opaque)
{
	if (msg->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("record", rd_kafka_err2str(msg->err));
}

static void
client_create(const char *bootstrap)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		errstr[512];

	if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, errstr,
						  sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die("bootstrap", errstr);
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("client", errstr);
	queue = rd_kafka_queue_new(rk);
	options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_ANY);
	rd_kafka_AdminOptions_set_request_timeout(options, TIMEOUT_MS, errstr, sizeof(errstr));
}

static void
check_topics(const rd_kafka_topic_result_t **topics, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (rd_kafka_topic_result_error(topics[i]) != RD_KAFKA_RESP_ERR_NO_ERROR)
			die(rd_kafka_topic_result_name(topics[i]),
				rd_kafka_err2str(rd_kafka_topic_result_error(topics[i])));
}

static void
check_resources(rd_kafka_event_t *ev)
{
	size_t		n;
	const rd_kafka_ConfigResource_t **res =
	rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(ev), &n);

	for (size_t i = 0; i < n; i++)
		if (rd_kafka_ConfigResource_error(res[i]) != RD_KAFKA_RESP_ERR_NO_ERROR)
			die(rd_kafka_ConfigResource_name(res[i]),
				rd_kafka_err2str(rd_kafka_ConfigResource_error(res[i])));
}

static void
check_records(rd_kafka_event_t *ev)
{
	const rd_kafka_topic_partition_list_t *list =
	rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(ev));

	for (int i = 0; i < list->cnt; i++)
		if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
			die(list->elems[i].topic, rd_kafka_err2str(list->elems[i].err));
}

static void
check_acls(rd_kafka_event_t *ev)
{
	size_t		n;
	const rd_kafka_acl_result_t **acls =
	rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(ev), &n);

	for (size_t i = 0; i < n; i++)
		if (rd_kafka_acl_result_error(acls[i]) != NULL)
			die("acl", rd_kafka_error_string(rd_kafka_acl_result_error(acls[i])));
}

static void
check_groups(rd_kafka_event_t *ev)
{
	size_t		n;
	const rd_kafka_group_result_t **groups =
	rd_kafka_DeleteGroups_result_groups(rd_kafka_event_DeleteGroups_result(ev), &n);

	for (size_t i = 0; i < n; i++)
		if (rd_kafka_group_result_error(groups[i]) != NULL)
			die(rd_kafka_group_result_name(groups[i]),
				rd_kafka_error_string(rd_kafka_group_result_error(groups[i])));
}

static void
print_offsets(rd_kafka_event_t *ev)
{
	size_t		n;
	const rd_kafka_group_result_t **groups =
	rd_kafka_ListConsumerGroupOffsets_result_groups(rd_kafka_event_ListConsumerGroupOffsets_result(ev), &n);

	for (size_t i = 0; i < n; i++)
	{
		const rd_kafka_topic_partition_list_t *list = rd_kafka_group_result_partitions(groups[i]);

		if (rd_kafka_group_result_error(groups[i]) != NULL)
			die(rd_kafka_group_result_name(groups[i]),
				rd_kafka_error_string(rd_kafka_group_result_error(groups[i])));
		for (int k = 0; k < list->cnt; k++)
			printf("%s\t%d\t%.*s\n", list->elems[k].topic, (int) list->elems[k].partition,
				   (int) list->elems[k].metadata_size, (const char *) list->elems[k].metadata);
	}
}

/* Wait for the answer, and end if it is an error. */
static void
finish(const char *what)
{
	rd_kafka_event_t *ev;
	size_t		n;
	const rd_kafka_topic_result_t **topics;

	do
	{
		ev = rd_kafka_queue_poll(queue, TIMEOUT_MS);
		if (ev == NULL)
			die(what, "no answer");
	} while (rd_kafka_event_type(ev) == RD_KAFKA_EVENT_ERROR);
	if (rd_kafka_event_error(ev) != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(what, rd_kafka_event_error_string(ev));
	switch (rd_kafka_event_type(ev))
	{
		case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
			topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
			check_topics(topics, n);
			break;
		case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
			topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(ev), &n);
			check_topics(topics, n);
			break;
		case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
			topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(ev), &n);
			check_topics(topics, n);
			break;
		case RD_KAFKA_EVENT_ALTERCONFIGS_RESULT:
			check_resources(ev);
			break;
		case RD_KAFKA_EVENT_DELETERECORDS_RESULT:
			check_records(ev);
			break;
		case RD_KAFKA_EVENT_CREATEACLS_RESULT:
			check_acls(ev);
			break;
		case RD_KAFKA_EVENT_DELETEGROUPS_RESULT:
			check_groups(ev);
			break;
		case RD_KAFKA_EVENT_LISTCONSUMERGROUPOFFSETS_RESULT:
			print_offsets(ev);
			break;
		default:
			break;
	}
	rd_kafka_event_destroy(ev);
}

static char *
split(char *setting)
{
	char	   *equals = strchr(setting, '=');

	if (equals == NULL)
		usage();
	*equals = '\0';
	return equals + 1;
}

static void
topic_create(const char *topic, int partitions, int nset, char **settings)
{
	char		errstr[512];
	rd_kafka_NewTopic_t *nt = rd_kafka_NewTopic_new(topic, partitions, -1,
													errstr, sizeof(errstr));

	if (nt == NULL)
		die(topic, errstr);
	for (int i = 0; i < nset; i++)
	{
		const char *value = split(settings[i]);

		rd_kafka_NewTopic_set_config(nt, settings[i], value);
	}
	rd_kafka_CreateTopics(rk, &nt, 1, options, queue);
	finish(topic);
}

static void
topic_config(const char *topic, int nset, char **settings)
{
	rd_kafka_ConfigResource_t *res =
	rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);

	for (int i = 0; i < nset; i++)
	{
		const char *value = split(settings[i]);

		rd_kafka_ConfigResource_set_config(res, settings[i], value);
	}
	rd_kafka_AlterConfigs(rk, &res, 1, options, queue);
	finish(topic);
}

static void
topic_grow(const char *topic, int count)
{
	char		errstr[512];
	rd_kafka_NewPartitions_t *np = rd_kafka_NewPartitions_new(topic, count, errstr,
															  sizeof(errstr));

	if (np == NULL)
		die(topic, errstr);
	rd_kafka_CreatePartitions(rk, &np, 1, options, queue);
	finish(topic);
}

static void
topic_truncate(const char *topic, int partition, long long offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *del;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
	del = rd_kafka_DeleteRecords_new(list);
	rd_kafka_DeleteRecords(rk, &del, 1, options, queue);
	finish(topic);
}

static void
topic_delete(const char *topic)
{
	rd_kafka_DeleteTopic_t *dt = rd_kafka_DeleteTopic_new(topic);

	rd_kafka_DeleteTopics(rk, &dt, 1, options, queue);
	finish(topic);
}

static void
group_forget(const char *group)
{
	rd_kafka_DeleteGroup_t *del = rd_kafka_DeleteGroup_new(group);

	rd_kafka_DeleteGroups(rk, &del, 1, options, queue);
	finish(group);
}

static void
group_offsets(const char *group)
{
	rd_kafka_ListConsumerGroupOffsets_t *list = rd_kafka_ListConsumerGroupOffsets_new(group, NULL);

	rd_kafka_ListConsumerGroupOffsets(rk, &list, 1, options, queue);
	finish(group);
}

static rd_kafka_AclOperation_t
operation_lookup(const char *name)
{
	if (strcasecmp(name, "read") == 0)
		return RD_KAFKA_ACL_OPERATION_READ;
	if (strcasecmp(name, "write") == 0)
		return RD_KAFKA_ACL_OPERATION_WRITE;
	if (strcasecmp(name, "describe") == 0)
		return RD_KAFKA_ACL_OPERATION_DESCRIBE;
	if (strcasecmp(name, "all") == 0)
		return RD_KAFKA_ACL_OPERATION_ALL;
	usage();
	return RD_KAFKA_ACL_OPERATION_UNKNOWN;
}

static void
acl_change(int allow, const char *user, const char *operation, const char *topic)
{
	char		errstr[512];
	char		principal[256];
	rd_kafka_AclBinding_t *acl;
	rd_kafka_AclBindingFilter_t *filter;

	snprintf(principal, sizeof(principal), "User:%s", user);
	if (allow)
	{
		acl = rd_kafka_AclBinding_new(RD_KAFKA_RESOURCE_TOPIC, topic,
									  RD_KAFKA_RESOURCE_PATTERN_LITERAL,
									  principal, "*", operation_lookup(operation),
									  RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
									  errstr, sizeof(errstr));
		if (acl == NULL)
			die(topic, errstr);
		rd_kafka_CreateAcls(rk, &acl, 1, options, queue);
	}
	else
	{
		filter = rd_kafka_AclBindingFilter_new(RD_KAFKA_RESOURCE_TOPIC, topic,
											   RD_KAFKA_RESOURCE_PATTERN_LITERAL,
											   principal, "*",
											   operation_lookup(operation),
											   RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
											   errstr, sizeof(errstr));
		if (filter == NULL)
			die(topic, errstr);
		rd_kafka_DeleteAcls(rk, &filter, 1, options, queue);
	}
	finish(topic);
}

/*
 * Decode a field in place.  NULL is null, and an empty one is not.
 */
static char *
field_decode(char *field, size_t *len)
{
	unsigned int byte;

	*len = 0;
	if (field == NULL || strcmp(field, "-") == 0)
		return NULL;
	for (const char *p = field; sscanf(p, "%2x", &byte) == 1; p += 2)
		field[(*len)++] = (char) byte;
	return field;
}

static void
record_write(const char *topic, char *line)
{
	char	   *partition = strsep(&line, "\t");
	size_t		key_len;
	char	   *key = field_decode(strsep(&line, "\t"), &key_len);
	size_t		value_len;
	char	   *value = field_decode(strsep(&line, "\t"), &value_len);
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
	rd_kafka_resp_err_t err;

	while (line != NULL)
	{
		size_t		name_len;
		char	   *name = field_decode(strsep(&line, "\t"), &name_len);
		size_t		len;
		char	   *content = field_decode(strsep(&line, "\t"), &len);

		rd_kafka_header_add(headers, name, (ssize_t) name_len, content, (ssize_t) len);
	}
	do
	{
		err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic),
								RD_KAFKA_V_PARTITION(atoi(partition)),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								RD_KAFKA_V_KEY(key, key_len),
								RD_KAFKA_V_VALUE(value, value_len),
								RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END);
		rd_kafka_poll(rk, err == RD_KAFKA_RESP_ERR__QUEUE_FULL ? 100 : 0);
	} while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(topic, rd_kafka_err2str(err));
}

static void
records_write(const char *topic)
{
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		len;

	while ((len = getline(&line, &size, stdin)) > 0)
	{
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		record_write(topic, line);
	}
	if (rd_kafka_flush(rk, TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(topic, "not all records were acknowledged");
	free(line);
}

int
main(int argc, char **argv)
{
	const char *what;

	if (argc < 4)
		usage();
	what = argv[2];
	client_create(argv[1]);
	if (strcmp(what, "create") == 0 && argc >= 5)
		topic_create(argv[3], atoi(argv[4]), argc - 5, argv + 5);
	else if (strcmp(what, "config") == 0 && argc >= 5)
		topic_config(argv[3], argc - 4, argv + 4);
	else if (strcmp(what, "partitions") == 0 && argc == 5)
		topic_grow(argv[3], atoi(argv[4]));
	else if (strcmp(what, "truncate") == 0 && argc == 6)
		topic_truncate(argv[3], atoi(argv[4]), atoll(argv[5]));
	else if (strcmp(what, "delete") == 0 && argc == 4)
		topic_delete(argv[3]);
	else if (strcmp(what, "forget") == 0 && argc == 4)
		group_forget(argv[3]);
	else if (strcmp(what, "offsets") == 0 && argc == 4)
		group_offsets(argv[3]);
	else if (strcmp(what, "write") == 0 && argc == 4)
		records_write(argv[3]);
	else if ((strcmp(what, "allow") == 0 || strcmp(what, "revoke") == 0) && argc == 6)
		acl_change(strcmp(what, "allow") == 0, argv[3], argv[4], argv[5]);
	else
		usage();
	fflush(stdout);
	_Exit(0);
}
